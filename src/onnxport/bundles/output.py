"""Create the output directory atomically.

Files are written into a hidden sibling directory of the output and flushed to disk, and the directory is renamed, or
exchanged with an existing output. The next export removes the directory of a killed process.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from onnxport.bundles._stages import create_stage, exchange, remove_abandoned, rename_new, restore_old, swap, sync
from onnxport.bundles.manifest import FILE_NAME, Manifest, read_manifest
from onnxport.errors import CheckpointError, OutputError


def check_output(output: Path, *, force: bool) -> None:
    """Check, before the export, that an output can be written without losing files.

    Args:
        output: directory to create.
        force: replace an earlier export.

    Raises:
        OutputError: it is a file, isn't empty, or its parent isn't writable.
    """
    restore_old(output.absolute())
    if not force and output.is_dir() and not output.is_symlink() and any(output.iterdir()):
        raise OutputError(f"output {output} is not empty; use --force to replace an earlier export, or another path")
    _check_replaceable(output, output)
    parent = output.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"output {output} can't be created: {parent} is not a writable directory")


def _check_replaceable(output: Path, directory: Path) -> None:
    """Check that `force` would only replace files of an earlier export.

    Args:
        output: path of the output, for messages.
        directory: path to check: the output, or the path to which it was moved.

    Raises:
        OutputError: it has other files.
    """
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise OutputError(f"output {output} is not a directory; choose another or remove it")
    if not directory.exists() or not any(directory.iterdir()):
        return
    try:
        manifest = read_manifest(directory)
    except CheckpointError as error:
        raise OutputError(
            f"output {output} isn't replaced: {FILE_NAME} can't be read ({error.__cause__ or error}), so that it isn't "
            "known which files onnxport wrote; remove the directory yourself, or choose another path"
        ) from error
    if manifest is None:
        raise OutputError(f"output {output} holds no {FILE_NAME}, so onnxport didn't write it; remove it yourself")
    if foreign := _foreign_files(directory, manifest):
        raise OutputError(
            f"output {output} isn't replaced: it holds files that onnxport didn't write ({', '.join(foreign[:5])}); "
            "move them away or choose another path"
        )


def _foreign_files(output: Path, manifest: Manifest) -> list[str]:
    """List the files, links and empty directories of an output that aren't in its manifest."""
    exported = {FILE_NAME, *manifest.files}
    for component in manifest.components:
        exported |= {component.file, *component.external_data}
    paths = (path for path in output.rglob("*") if path.is_symlink() or not path.is_dir() or not any(path.iterdir()))
    return sorted({path.relative_to(output).as_posix() for path in paths} - exported)


@contextlib.contextmanager
def staged(output: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a staging directory, and rename it to `output` if the block succeeds.

    Args:
        output: directory to create or replace; `check_output` has accepted it.
        force: replace an earlier export, also one that appears while the block runs.

    Yields:
        An empty directory on the same file system. On an error it is removed and `output` is unchanged.

    Raises:
        OutputError: the disk is full, the output can't be written, or it was created during the export.
    """
    output = output.absolute()
    existed = output.is_dir()
    created = _make_parents(output.parent)
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(_remove_empty, created)  # directories that hold the output by then aren't empty
        try:
            remove_abandoned(output)
            stage = create_stage(output)
        except OSError as error:
            raise OutputError(f"output {output} can't be created: {error.strerror or error}") from error
        cleanup.callback(stage.release)
        cleanup.callback(shutil.rmtree, stage.path, ignore_errors=True)
        try:
            yield stage.path
            _flush(stage.path)
            stage.path.chmod(0o777 & ~_umask())
            _publish(stage.path, output, existed=existed, force=force)
            for parent in (output.parent, *(path.parent for path in created)):
                sync(parent)
        except OSError as error:
            hint = "; free some space, or choose another disk" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            raise OutputError(f"output {output} can't be written: {error.strerror or error}{hint}") from error


@contextlib.contextmanager
def staged_files(directory: Path) -> Iterator[Path]:
    """Yield a staging directory, and move its files into a directory if the block succeeds.

    A directory that has no other files is replaced as a whole. Otherwise the files are replaced one by one, the graphs
    (`*.onnx`) last.

    Args:
        directory: directory of the files; it is created if it doesn't exist, and its other files are kept.

    Yields:
        An empty directory on the same file system. On an error it is removed and `directory` is unchanged.

    Raises:
        OSError: the files can't be written.
    """
    directory = directory.absolute()
    created = _make_parents(directory)
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(_remove_empty, created)
        for owner in (directory / _FILES, directory):
            remove_abandoned(owner)
        stage = create_stage(directory / _FILES)
        cleanup.callback(stage.release)
        cleanup.callback(shutil.rmtree, stage.path, ignore_errors=True)
        yield stage.path
        _flush(stage.path)
        if not _replace_whole(stage.path, directory):
            for path in sorted(stage.path.iterdir(), key=lambda path: path.suffix == ".onnx"):
                path.replace(directory / path.name)
        for parent in (directory, *(path.parent for path in created)):
            sync(parent)


_FILES = "onnxport"
"""Name that stages inside of a directory have instead of the directory's."""


def _replace_whole(stage: Path, directory: Path) -> bool:
    """Exchange a directory with a stage inside of it; return False if it has other files, or can't be exchanged."""
    names = {path.name for path in stage.iterdir()}
    if directory.is_symlink() or {path.name for path in directory.iterdir()} - names - {stage.name}:
        return False
    beside = directory.parent / f".{directory.name}{stage.name.removeprefix(f'.{_FILES}')}"
    try:
        stage.rename(beside)
    except OSError:  # a mount point, or its parent can't be written
        return False
    try:
        beside.chmod(stat.S_IMODE(directory.stat().st_mode))
        if exchange(beside, directory):
            sync(directory.parent)
            shutil.rmtree(beside, ignore_errors=True)
            return True
    except OSError:
        beside.rename(stage)
        raise
    beside.rename(stage)
    return False


def _publish(stage: Path, output: Path, *, existed: bool, force: bool) -> None:
    """Rename a stage to an output, without losing files that were created in it since the export started.

    Raises:
        OutputError: the output has other files now.
    """
    try:
        rename_new(stage, output, over_empty=existed)
    except FileExistsError as error:
        if not force:
            raise OutputError(
                f"output {output} was created during the export, and isn't replaced; use --force "
                "to replace an export, or another path"
            ) from error
        swap(stage, output, lambda directory: _check_replaceable(output, directory))


def _make_parents(parent: Path) -> list[Path]:
    """Create missing parents and return those created, innermost first."""
    missing = [path for path in (parent, *parent.parents) if not path.exists()]
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _remove_empty(missing)
        raise OutputError(f"output directory {parent} can't be created: {error.strerror or error}") from error
    return missing


def _remove_empty(directories: list[Path]) -> None:
    for directory in directories:
        with contextlib.suppress(OSError):
            directory.rmdir()


def _flush(directory: Path) -> None:
    """Flush every file and directory of a tree to disk, except hard links to existing files."""
    for path in [*directory.rglob("*"), directory]:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_nlink == 1:
            sync(path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
