"""Write a file under a temporary name in its own directory, and remove what killed writers leave there.

A writer holds a lock on its temporary file. The system takes it away when the process ends, however that happens: so a
temporary file without a lock is one that nobody will finish.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing is locked, so only age tells what was left behind
    fcntl = None  # type: ignore[assignment]

_PREFIX, _SUFFIX = ".entry.", ".partial"
_NAME = re.compile(rf"{re.escape(_PREFIX)}\w+{re.escape(_SUFFIX)}")
_OLD = 24 * 3600.0
"""Seconds after which a temporary file is taken for abandoned where there are no locks."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def write_whole(path: Path, *parts: bytes) -> None:
    """Write a file so that it has its name only when it is whole; another one of that name is replaced.

    Raises:
        OSError: it can't be written; nothing is left behind.
    """
    descriptor, temporary = _create(path.parent)
    try:
        for part in parts:
            _write(descriptor, part)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    finally:
        os.close(descriptor)


def remove_abandoned(directory: Path) -> int:
    """Remove the temporary files of a directory whose writers are gone, and return how many bytes they had."""
    removed = 0
    with contextlib.suppress(OSError):
        for entry in os.scandir(directory):
            if _NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                removed += _remove_if_abandoned(Path(entry.path))
    return removed


def _create(directory: Path) -> tuple[int, Path]:
    while True:
        descriptor, name = tempfile.mkstemp(prefix=_PREFIX, suffix=_SUFFIX, dir=directory)
        _lock(descriptor, wait=True)
        # Between the two lines above another process may have taken the file for abandoned, and removed it.
        if _is_at(Path(name), descriptor):
            return descriptor, Path(name)
        os.close(descriptor)


def _remove_if_abandoned(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return 0
    try:
        status = os.fstat(descriptor)
        free = _lock(descriptor, wait=False)
        if (time.time() - status.st_mtime > _OLD if free is None else free) and _is_at(path, descriptor):
            path.unlink()
            return status.st_size
    except OSError:
        pass
    finally:
        os.close(descriptor)
    return 0


def _lock(descriptor: int, *, wait: bool) -> bool | None:
    """Lock a file; False where another process has it, None where the system or the file system has no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return None if error.errno in _NO_LOCKS else False
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except OSError:
        return False


def _write(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while len(view):
        view = view[os.write(descriptor, view) :]
