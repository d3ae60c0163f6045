"""Keep the files that a directory names, and those that are in it, inside of it.

Whoever wrote a directory chose the names in its JSON files and graphs, and may have put links into it. Every such name
goes through `inside`, so that neither reading nor exporting a directory opens a file of the reader's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from onnxport.errors import CorruptCheckpointError

_READ_WHOLE = ("additional_chat_templates",)
"""Subdirectories whose files Transformers reads without being told their names."""


def inside(directory: Path, name: str | Path, named_by: Path | None = None) -> Path:
    """Return the path of a file or directory, which must lie inside a directory, symbolic links followed.

    What a snapshot of the hub links to, the blobs of its own repository and of its cache, counts as inside.

    Args:
        directory: where the file must be.
        name: relative path of the file; or a path below `directory`, as listing it gives.
        named_by: file that names it; None where it was found by listing the directory.

    Raises:
        CorruptCheckpointError: it is absolute, leads upwards, or is a link to somewhere else.
    """
    origin = named_by or directory
    verb = "names" if named_by else "holds"
    path = name if isinstance(name, Path) and name.is_relative_to(directory) else directory / _checked(name, origin)
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
    """List the files of a directory whose names match a pattern, sorted; each lies inside of it.

    Args:
        directory: where to look.
        *patterns: patterns of `Path.glob`.

    Raises:
        CorruptCheckpointError: one of them is a link to somewhere else.
    """
    found = {path for pattern in patterns for path in directory.glob(pattern) if path.is_file()}
    return [inside(directory, path) for path in sorted(found)]


def check_links(directory: Path) -> None:
    """Check that no file that Transformers may look for in a directory is a link to somewhere else.

    Its tokenizers and processors open files by names that they choose, so all of them are checked.

    Raises:
        CorruptCheckpointError: one is.
    """
    for path in _readable(directory):
        inside(directory, path)


def _readable(directory: Path) -> Iterator[Path]:
    yield from (path for path in directory.glob("*") if path.is_file())
    for name in _READ_WHOLE:
        if (directory / name).exists():
            yield directory / name
            yield from (directory / name).glob("*")


def _checked(name: str | Path, origin: Path) -> str:
    """Return a relative name that leads nowhere else by its spelling, on any platform."""
    text = str(name)
    posix, windows = PurePosixPath(text), PureWindowsPath(text)
    if posix.is_absolute() or windows.drive or windows.root or ".." in posix.parts or ".." in windows.parts:
        raise CorruptCheckpointError(
            f"{origin} names the file {text!r}, outside of its directory; only files of that directory may be named: "
            f"don't use it, or correct the name"
        )
    if not text or "\0" in text:
        raise CorruptCheckpointError(f"{origin} names the file {text!r}, which no file can be called; correct it")
    return text


def _blob_directories(root: Path) -> Iterator[Path]:
    """Yield where the hub's cache keeps the contents of a snapshot: the repository's blobs, and the shared ones.

    Args:
        root: the snapshot (`models--owner--name/snapshots/commit`), or a directory in it; links are resolved.
    """
    for snapshots in root.parents:
        repository = snapshots.parent
        if snapshots.name == "snapshots" and "--" in repository.name:
            # A link in the place of one of them would lead anywhere.
            yield from (blobs for at in (repository, repository.parent) if not (blobs := at / "blobs").is_symlink())
