"""Reject file names and links that lead out of a directory.

The author of a directory chose the names in its JSON files and graphs, and may have put links into it. Every such name
goes through `inside`, so that neither reading nor exporting a directory opens another file of the user's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from onnxport.errors import CorruptCheckpointError, brief

_LISTED_SUBDIRECTORIES = ("additional_chat_templates",)
"""Subdirectories that Transformers lists, to read all their files."""


def inside(directory: Path, name: str | Path, named_by: Path | None = None) -> Path:
    """Return the path of a file or directory, which must be inside a directory after resolving symbolic links.

    A snapshot of the hub may link to the blobs of its repository and of its cache.

    Args:
        directory: directory that must contain the file.
        name: relative path of the file; or a path below `directory`, as returned by listing it.
        named_by: file that names it; None if it was found by listing the directory.

    Raises:
        CorruptCheckpointError: it is absolute, leads upwards, or is a link to somewhere else.
    """
    origin = named_by or directory
    verb = "names" if named_by else "holds"
    path = (
        name if isinstance(name, Path) and name.is_relative_to(directory) else directory / _checked_name(name, origin)
    )
    try:
        real = path.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise CorruptCheckpointError(f"{origin}: {path.name!r} is a link that leads nowhere; remove it") from error
    root = directory.resolve()
    if real.is_relative_to(root) or any(real.is_relative_to(blobs) for blobs in _blob_directories(root)):
        return path
    raise CorruptCheckpointError(
        f"{origin} {verb} {path.name!r}, which is a link to {real}, outside of {directory}; "
        f"put the file itself into the directory"
    )


def files_inside(directory: Path, *patterns: str) -> list[Path]:
    """List the files of a directory whose names match a pattern, sorted, and check that each is inside of it.

    Args:
        directory: the directory.
        *patterns: patterns of `Path.glob`.

    Raises:
        CorruptCheckpointError: one of them is a link to somewhere else.
    """
    found = {path for pattern in patterns for path in directory.glob(pattern) if path.is_file()}
    return [inside(directory, path) for path in sorted(found)]


def all_files_inside(directory: Path) -> list[Path]:
    """List all files of a directory and its subdirectories, sorted, and check that each is inside of it.

    Raises:
        CorruptCheckpointError: a file or a directory is a link to somewhere else.
    """
    return [path for path in sorted(directory.rglob("*")) if inside(directory, path).is_file()]


def check_links(directory: Path) -> None:
    """Check that no file that Transformers may open in a directory is a link to somewhere else.

    Its tokenizers and processors choose the names of the files that they open, so all files are checked.

    Raises:
        CorruptCheckpointError: one is.
    """
    for path in _readable_files(directory):
        inside(directory, path)


def _readable_files(directory: Path) -> Iterator[Path]:
    yield from (path for path in directory.glob("*") if path.is_file())
    for name in _LISTED_SUBDIRECTORIES:
        if (directory / name).exists():
            yield directory / name
            yield from (directory / name).glob("*")


def _checked_name(name: str | Path, origin: Path) -> str:
    """Return a relative name, after checking that it can't leave the directory on any platform."""
    text = str(name)
    posix, windows = PurePosixPath(text), PureWindowsPath(text)
    if posix.is_absolute() or windows.drive or windows.root or ".." in posix.parts or ".." in windows.parts:
        raise CorruptCheckpointError(
            f"{origin} names the file {brief(text)}, outside of its directory; only files of that directory may be "
            f"named: don't use it, or correct the name"
        )
    if not text or "\0" in text or not _is_encodable(text) or _is_long(posix):
        raise CorruptCheckpointError(f"{origin} names the file {brief(text)}, which no file can be called; correct it")
    return text


_MAX_NAME = 255
"""Longest name of a file that common file systems support, in bytes; a longer one can't be looked up."""


def _is_long(path: PurePosixPath) -> bool:
    return any(len(os.fsencode(part)) > _MAX_NAME for part in path.parts)


def _is_encodable(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON may have as an escape
        return False
    return True


def _blob_directories(root: Path) -> Iterator[Path]:
    """Yield the directories with the contents of a snapshot in the hub's cache: the repository's blobs, shared blobs.

    Args:
        root: the snapshot (`models--owner--name/snapshots/commit`), or a directory in it; links are resolved.
    """
    for snapshots in root.parents:
        repository = snapshots.parent
        if snapshots.name == "snapshots" and "--" in repository.name:
            # A symbolic link named `blobs` could lead anywhere.
            yield from (blobs for at in (repository, repository.parent) if not (blobs := at / "blobs").is_symlink())
