"""Compute SHA-256 digests of weight files for the manifest, optionally in a thread while they are read."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from onnxport.errors import CheckpointNotFoundError

_CHUNK_BYTES = 1 << 22


def sha256_of_file(path: Path, *, progress: Callable[[int], None] | None = None) -> str:
    """Return the hexadecimal SHA-256 digest of a file, which is read in chunks.

    Args:
        path: the file.
        progress: called with the size of each chunk, in bytes.

    Raises:
        CheckpointNotFoundError: the file can't be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                if progress is not None:
                    progress(len(chunk))
    except OSError as error:
        raise CheckpointNotFoundError(
            f"{path}: the weights can't be read ({error.strerror or error}); check the path and its permissions"
        ) from error
    return digest.hexdigest()


def sha256_of_files(paths: Iterable[Path], *, root: Path) -> dict[str, str]:
    """Return the digest of each file by its POSIX path relative to `root`."""
    return {path.relative_to(root).as_posix(): sha256_of_file(path) for path in paths}


class _StoppedError(Exception):
    """Stop the thread, because the block ended before the digests were computed."""


@contextmanager
def digesting(paths: Iterable[Path], *, root: Path) -> Iterator[Callable[[], dict[str, str]]]:
    """Digest files in a thread while the block reads them, so that the page cache serves the second read of a chunk.

    Args:
        paths: the files, in the order in which the block reads them.
        root: directory that the returned paths are relative to.

    Yields:
        A function that waits for the digests and returns them like `sha256_of_files`.
    """
    stop = threading.Event()

    def check(_: int) -> None:
        if stop.is_set():
            raise _StoppedError

    def work(files: tuple[Path, ...]) -> dict[str, str]:
        return {path.relative_to(root).as_posix(): sha256_of_file(path, progress=check) for path in files}

    with ThreadPoolExecutor(1, thread_name_prefix="onnxport-digest") as pool:
        digests = pool.submit(work, tuple(paths))
        try:
            yield digests.result
        finally:
            stop.set()
