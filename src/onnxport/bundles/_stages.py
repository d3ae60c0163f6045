"""Make, recognise and exchange the hidden directories that exports are written into.

A stage is `.NAME.xxxxxxxx.partial` beside the output NAME. Its process holds a lock on it, which the system takes
away when the process ends, however that happens: so a stage without a lock is one that nobody will finish.
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

try:
    import fcntl
except ImportError:  # Windows: stages aren't locked, so none is taken for abandoned
    fcntl = None  # type: ignore[assignment]

_PARTIAL, _OLD = ".partial", ".old"
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2
"""Flags of Linux's renameat2: fail where the new name exists; let the two names change places at once."""
_AT_FDCWD = -100


class Stage:
    """A directory to write into, and the lock on it.

    Args:
        path: the directory.
        lock: descriptor that holds the lock; None where the system or the file system has no locks.
    """

    def __init__(self, path: Path, lock: int | None) -> None:
        self.path = path
        self.lock = lock

    def release(self) -> None:
        """Give the lock back."""
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None


def create_stage(output: Path) -> Stage:
    """Create and lock an empty directory beside an output."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=_PARTIAL, dir=output.parent))
        lock = _lock(path, wait=True)
        # Between the two lines above another process may have taken the stage for abandoned, and removed it.
        if path.is_dir() if lock is None else _is_at(path, lock):
            return Stage(path, lock)
        if lock is not None:
            os.close(lock)


def remove_abandoned(output: Path) -> None:
    """Remove the stages of an output whose processes are gone; never anything else."""
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
    if exchange(stage, output):
        try:
            check(stage)
        except BaseException:
            exchange(stage, output)
            raise
        shutil.rmtree(stage, ignore_errors=True)
        return
    old = stage.with_suffix(_OLD)
    output.rename(old)
    try:
        check(old)
        rename_new(stage, output)
    except BaseException:
        rename_new(old, output)
        raise
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
    """Hold the lock on a stage in a block; False where its process has it."""
    lock = _lock(path, wait=False)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            os.close(lock)


def _lock(path: Path, *, wait: bool) -> int | None:
    """Lock a directory and return the descriptor that holds the lock, None where that can't be done."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False
