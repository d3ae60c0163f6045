"""Digest weight files for the manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

from onnxport.errors import CheckpointNotFoundError

_CHUNK_BYTES = 1 << 22


def sha256_of_file(path: Path, *, progress: Callable[[int], None] | None = None) -> str:
    """Return the SHA-256 of a file in hexadecimal, reading it in pieces.

    Args:
        path: the file.
        progress: called with the number of bytes of each piece read.

    Raises:
        CheckpointNotFoundError: the file can't be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as file:
            while piece := file.read(_CHUNK_BYTES):
                digest.update(piece)
                if progress is not None:
                    progress(len(piece))
    except OSError as error:
        raise CheckpointNotFoundError(
            f"{path}: the weights can't be read ({error.strerror or error}); check the path and its permissions"
        ) from error
    return digest.hexdigest()


def sha256_of_files(paths: Iterable[Path], *, root: Path) -> dict[str, str]:
    """Return the digest of each file by its path relative to a directory, with forward slashes."""
    return {path.relative_to(root).as_posix(): sha256_of_file(path) for path in paths}
