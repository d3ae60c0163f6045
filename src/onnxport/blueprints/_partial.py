"""Write files atomically, through locked temporary files, and remove the temporary files of killed writers."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
from pathlib import Path

from onnxport._locking import is_at, lock

_PREFIX, _SUFFIX = ".entry.", ".partial"
_NAME = re.compile(rf"{re.escape(_PREFIX)}\w+{re.escape(_SUFFIX)}")
_ABANDONED_AGE = 24 * 3600.0
"""Seconds after which a temporary file is assumed to be abandoned if locks aren't supported."""


def write_atomically(path: Path, *parts: bytes) -> None:
    """Write a file under a temporary name and rename it, replacing an existing one.

    Raises:
        OSError: the file can't be written; the temporary file is removed.
    """
    descriptor, temporary = _create(path.parent)
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(os.close, descriptor)
        with contextlib.ExitStack() as undo:
            undo.callback(_remove, temporary)
            for part in parts:
                _write(descriptor, part)
            os.replace(temporary, path)
            undo.pop_all()


def remove_abandoned(directory: Path) -> int:
    """Remove the temporary files of killed writers from a directory, and return their total size in bytes."""
    removed = 0
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if _NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                removed += _remove_if_abandoned(Path(entry.path))
    return removed


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _create(directory: Path) -> tuple[int, Path]:
    while True:
        descriptor, name = tempfile.mkstemp(prefix=_PREFIX, suffix=_SUFFIX, dir=directory)
        lock(descriptor, wait=True)
        # Another process may have removed the file as abandoned before it was locked.
        if is_at(Path(name), descriptor):
            return descriptor, Path(name)
        os.close(descriptor)


def _remove_if_abandoned(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return 0
    try:
        status = os.fstat(descriptor)
        locked = lock(descriptor, wait=False)
        is_abandoned = time.time() - status.st_mtime > _ABANDONED_AGE if locked is None else locked
        if is_abandoned and is_at(path, descriptor):
            path.unlink()
            return status.st_size
    except OSError:
        pass
    finally:
        os.close(descriptor)
    return 0


def _write(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while len(view):
        view = view[os.write(descriptor, view) :]
