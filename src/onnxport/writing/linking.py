"""Link a checkpoint's file into another directory without copying it.

A reflink is preferred: it shares blocks copy-on-write, so that later changes of one file don't affect the other. File
systems without reflinks get a hard link: then modifying the checkpoint's file in place modifies the export too.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from onnxport.errors import OutputError

_FICLONE = 0x40049409
"""Linux's ioctl request that clones a file."""


def link_file(source: Path, target: Path) -> str:
    """Link a file.

    Args:
        source: the file; symbolic links are followed.
        target: the new path, in an existing directory.

    Returns:
        `reflink` or `hard link`.

    Raises:
        OutputError: neither can be created, for example because the paths are on different file systems.
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


def link_or_copy(source: Path, target: Path) -> None:
    """Link a file, or copy it if the file system can't link it.

    Args:
        source: the file; symbolic links are followed.
        target: the new path, in an existing directory.
    """
    try:
        link_file(source, target)
    except OutputError:
        shutil.copyfile(source, target)


def _reflink(source: Path, target: Path) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
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
