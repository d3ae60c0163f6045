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
from collections.abc import Iterator
from pathlib import Path

from onnxport._locking import is_at, lock

_PARTIAL, _OLD = ".partial", ".old"
_RENAME_EXCHANGE = 2
"""Flag of Linux's renameat2: the two names change places at once."""
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
