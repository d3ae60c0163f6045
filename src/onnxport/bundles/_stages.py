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
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: stages aren't locked, so none is taken for abandoned
    fcntl = None  # type: ignore[assignment]

_PARTIAL, _OLD = ".partial", ".old"
_RENAME_EXCHANGE = 2
"""Flag of Linux's renameat2: the two names change places at once."""
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
                path.rename(output)


def swap(stage: Path, output: Path) -> None:
    """Put a stage in the place of an output, and remove what was there.

    Where the system can, both change places at once; elsewhere the old output is moved aside first, and comes back
    if the new one can't be moved.
    """
    if not output.exists():
        stage.rename(output)
    elif exchange(stage, output):
        shutil.rmtree(stage, ignore_errors=True)
    else:
        old = stage.with_suffix(_OLD)
        output.rename(old)
        try:
            stage.rename(output)
        except BaseException:
            old.rename(output)
            raise
        shutil.rmtree(old, ignore_errors=True)


def exchange(first: Path, second: Path) -> bool:
    """Let two names change places at once; False where the system or the file system can't do that."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    done = rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
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
