"""Lock temporary files and directories while a process writes them, to recognize those of killed processes.

The operating system releases a lock when its process ends, even if it is killed: a temporary file without a lock is
abandoned.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""Errors of an operating system or file system without locks."""


def lock(descriptor: int, *, wait: bool) -> bool | None:
    """Take an exclusive lock on an open file or directory, until the descriptor is closed.

    Args:
        descriptor: file descriptor.
        wait: whether to wait for another process to release it.

    Returns:
        True if the lock was taken, False if another process has it, None if locks aren't supported.
    """
    from filelock import lock_descriptor

    try:
        return lock_descriptor(descriptor, blocking=wait)
    except OSError as error:
        return None if error.errno in _UNSUPPORTED else False


def is_at(path: Path, descriptor: int) -> bool:
    """Return whether a path still refers to an open file or directory, which another process may have removed."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except OSError:
        return False
