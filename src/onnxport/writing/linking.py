"""Put a file of a checkpoint into another directory without copying it.

A reflink first: it shares the blocks, and a later change of either file doesn't reach the other. Where the file
system has none, a hard link: one file with two names, so writing into the checkpoint's file changes the export.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from onnxport.errors import OutputError

_FICLONE = 0x40049409
"""Number of Linux's request to share the blocks of a file."""


def link_file(source: Path, target: Path) -> str:
    """Make a file appear under another name.

    Args:
        source: a file; a symbolic link is followed.
        target: the new name, in a directory that exists.

    Returns:
        `reflink` or `hard link`.

    Raises:
        OutputError: neither can be made, because the directory is on another file system, say.
    """
    real = Path(os.path.realpath(source))
    if _reflink(real, target):
        return "reflink"
    try:
        os.link(real, target)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno == errno.EXDEV:
            reason = "they are on different file systems"
        raise OutputError(
            f"{real} can't be linked into {target.parent}: {reason}; choose an output on the checkpoint's file "
            "system, or leave --weights link out"
        ) from error
    return "hard link"


def _reflink(source: Path, target: Path) -> bool:
    try:
        import fcntl
    except ImportError:  # not on Windows
        return False
    with source.open("rb") as original:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            fcntl.ioctl(descriptor, _FICLONE, original.fileno())
        except OSError:
            target.unlink()
            return False
        finally:
            os.close(descriptor)
    return True
