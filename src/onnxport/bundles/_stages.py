"""Create, recognize and exchange the hidden directories (stages) that exports are written into.

A stage is `.NAME.xxxxxxxx.partial` beside the output NAME. Its process locks it; a stage without a lock was abandoned
by a killed process.
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
"""Flags of Linux's renameat2: fail where the new name exists; let the two names change places at once."""
_AT_FDCWD = -100


class Stage:
    """A directory to write into, and its lock.

    Args:
        path: the directory.
        lock: locked descriptor; None where locks aren't supported.
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
    """Create and lock an empty directory beside an output."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=_PARTIAL, dir=output.parent))
        descriptor = _locked_descriptor(path, wait=True)
        # Another process may have removed the stage as abandoned before it was locked.
        if path.is_dir() if descriptor is None else is_at(path, descriptor):
            return Stage(path, descriptor)
        if descriptor is not None:
            os.close(descriptor)


def remove_abandoned(output: Path) -> None:
    """Remove the stages of an output that were abandoned by killed processes, and nothing else."""
    for path in _own(output, _PARTIAL):
        with _locked(path) as is_abandoned:
            if is_abandoned:
                shutil.rmtree(path, ignore_errors=True)
    for path in _own(output, _OLD):
        if output.exists() and not path.with_suffix(_PARTIAL).exists():
            shutil.rmtree(path, ignore_errors=True)


def restore_old(output: Path) -> None:
    """Bring back an output that was moved aside by a process that ended before the new one was in its place."""
    for path in _own(output, _OLD):
        with _locked(path.with_suffix(_PARTIAL)) as is_abandoned:
            if not output.exists() and (is_abandoned or not path.with_suffix(_PARTIAL).exists()):
                with contextlib.suppress(FileExistsError):
                    rename_new(path, output)


def rename_new(source: Path, target: Path, *, over_empty: bool = False) -> None:
    """Rename a directory to a name that nothing else has.

    Args:
        source: the directory.
        target: its new name.
        over_empty: replace an empty directory, which was there before. Without `RENAME_NOREPLACE` (other systems, and
            file systems such as NFS) one is replaced in any case: `os.rename` refuses what isn't empty.

    Raises:
        FileExistsError: something has that name.
    """
    if not over_empty and _renameat2(source, target, _RENAME_NOREPLACE):
        return
    if os.name == "nt" and over_empty:  # there, os.rename replaces no directory at all
        with contextlib.suppress(FileNotFoundError):
            target.rmdir()
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR) and os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        raise


def swap(stage: Path, output: Path, check: Callable[[Path], None]) -> None:
    """Put a stage in the place of an output, and remove what was there.

    Where the system can, both change places at once; elsewhere the old output is moved aside first, and comes back
    if the new one can't be moved.

    Args:
        stage: the new directory.
        output: the name of both.
        check: raises where a directory holds what must not be removed. It is called before, and again when the old
            output is out of the way, where nothing is added to it any more; then both go back.
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
    shutil.rmtree(old, ignore_errors=True)


def exchange(first: Path, second: Path) -> bool:
    """Let two names change places at once; False where the system or the file system can't do that."""
    return _renameat2(first, second, _RENAME_EXCHANGE)


def _renameat2(first: Path, second: Path, flag: int) -> bool:
    """Call Linux's renameat2; False where the system or the file system doesn't know the flag.

    Raises:
        OSError: it can't be renamed.
    """
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    done = rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), flag)
    if done == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(second))


def _own(output: Path, suffix: str) -> list[Path]:
    """Return the directories beside an output that are named as stages are, and belong to this user."""
    pattern = re.compile(rf"\.{re.escape(output.name)}\.\w{{8}}{re.escape(suffix)}")
    found = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(output.parent):
            own = entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == _user()
            if own and pattern.fullmatch(entry.name):
                found.append(Path(entry.path))
    return found


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Lock a stage in a block; yields False if another process has the lock."""
    descriptor = _locked_descriptor(path, wait=False)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _locked_descriptor(path: Path, *, wait: bool) -> int | None:
    """Lock a directory and return its descriptor, None if it can't be locked (as on Windows)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    except OSError:
        return None
    if lock(descriptor, wait=wait):
        return descriptor
    os.close(descriptor)
    return None
