"""Create, recognize and exchange the hidden staging directories (stages) that exports are written into.

A stage is the sibling directory `.NAME.xxxxxxxx.partial` of the output NAME. Its process locks it; a stage without a
lock was abandoned by a killed process.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from onnxport._locking import is_at, lock

_PARTIAL, _OLD = ".partial", ".old"
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2
"""Flags of Linux's renameat2: fail if the new path exists; exchange the two paths atomically."""
_AT_FDCWD = -100


class Stage:
    """A staging directory and its lock.

    Args:
        path: the directory.
        lock: locked descriptor; None if locks aren't supported.
    """

    def __init__(self, path: Path, lock: int | None) -> None:
        self.path = path
        self.lock = lock

    def release(self) -> None:
        """Release the lock."""
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None


def create_stage(output: Path) -> Stage:
    """Create and lock an empty sibling directory of an output."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=_PARTIAL, dir=output.parent))
        try:
            descriptor = _locked_descriptor(path, wait=True)
        except KeyboardInterrupt:
            path.rmdir()
            raise
        # Another process may have removed the stage as abandoned before it was locked.
        if path.is_dir() if descriptor is None else is_at(path, descriptor):
            return Stage(path, descriptor)
        if descriptor is not None:
            os.close(descriptor)


def remove_abandoned(output: Path) -> None:
    """Remove the stages of an output that were abandoned by killed processes, and no other directories."""
    for path in _stages_of(output, _PARTIAL):
        with _locked(path) as is_abandoned:
            if is_abandoned:
                shutil.rmtree(path, ignore_errors=True)
    for path in _stages_of(output, _OLD):
        if output.exists() and not path.with_suffix(_PARTIAL).exists():
            shutil.rmtree(path, ignore_errors=True)


def restore_old(output: Path) -> None:
    """Restore an output that a killed process moved aside and didn't replace."""
    for path in _stages_of(output, _OLD):
        with _locked(path.with_suffix(_PARTIAL)) as is_abandoned:
            if not output.exists() and (is_abandoned or not path.with_suffix(_PARTIAL).exists()):
                with contextlib.suppress(FileExistsError):
                    rename_new(path, output)


def rename_new(source: Path, target: Path, *, over_empty: bool = False) -> None:
    """Rename a directory to a path that doesn't exist.

    Args:
        source: the directory.
        target: its new path.
        over_empty: replace an existing empty directory. Without `RENAME_NOREPLACE` (other systems, and file systems
            such as NFS) one is always replaced: `os.rename` fails only if the directory isn't empty.

    Raises:
        FileExistsError: the new path exists.
    """
    if not over_empty and _renameat2(source, target, _RENAME_NOREPLACE):
        return
    if os.name == "nt" and over_empty:  # os.rename on Windows never replaces a directory
        with contextlib.suppress(FileNotFoundError):
            target.rmdir()
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR) and os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        raise


def swap(stage: Path, output: Path, check: Callable[[Path], None]) -> None:
    """Replace an output by a stage, and remove the old output when the new one is on disk.

    If the system supports it, both paths are exchanged atomically; otherwise the old output is moved aside first, and
    restored if the stage can't be moved.

    Args:
        stage: the new directory.
        output: the path of the output.
        check: raises if a directory has files that must not be removed. It is called for the output first, and again
            after the old output was moved, when no other process adds files to it; if that raises, both are restored.
    """
    check(output)
    with contextlib.ExitStack() as undo:
        if exchange(stage, output):
            undo.callback(exchange, stage, output)
            old = stage
            check(old)
        else:
            old = stage.with_suffix(_OLD)
            output.rename(old)
            undo.callback(rename_new, old, output)
            check(old)
            rename_new(stage, output)
        undo.pop_all()
    sync(output.parent)  # otherwise, after a power loss, the name may be that of the old directory without its files
    shutil.rmtree(old, ignore_errors=True)


def sync(path: Path) -> None:
    """Flush a file, or the names in a directory, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def exchange(first: Path, second: Path) -> bool:
    """Exchange two paths atomically; return False if the system or the file system doesn't support it."""
    return _renameat2(first, second, _RENAME_EXCHANGE)


def _renameat2(first: Path, second: Path, flag: int) -> bool:
    """Call Linux's renameat2; return False if the system or the file system doesn't support the flag.

    Raises:
        OSError: renaming failed.
    """
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    done = rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), flag)
    if done == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(second))


def _stages_of(output: Path, suffix: str) -> list[Path]:
    """Return the sibling directories of an output that have the name of a stage and belong to this user."""
    pattern = re.compile(rf"\.{re.escape(output.name)}\.\w{{8}}{re.escape(suffix)}")
    stages = []
    with contextlib.suppress(OSError), os.scandir(output.parent) as entries:
        for entry in entries:
            if pattern.fullmatch(entry.name) and _is_own_directory(entry):
                stages.append(Path(entry.path))
    return stages


def _is_own_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == _user_id()
    except OSError:  # another export removed it meanwhile
        return False


def _user_id() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Lock a stage in a block; yield False if another process has the lock."""
    descriptor = _locked_descriptor(path, wait=False)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _locked_descriptor(path: Path, *, wait: bool) -> int | None:
    """Lock a directory and return its descriptor; None if it can't be locked (as on Windows)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    except OSError:
        return None
    if lock(descriptor, wait=wait):
        return descriptor
    os.close(descriptor)
    return None
