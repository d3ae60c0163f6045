"""Digest weight files for the manifest, in a second thread where something else reads them too."""

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


class _StoppedError(Exception):
    """End the thread: nobody wants the digests any more."""


@contextmanager
def digesting(paths: Iterable[Path], *, root: Path) -> Iterator[Callable[[], dict[str, str]]]:
    """Digest files in a thread while a block reads them: the second one to read a piece finds it in memory.

    Args:
        paths: the files, in the order in which the block reads them.
        root: directory that their names are relative to.

    Yields:
        A function that waits for the digests, and returns them as `sha256_of_files` does.
    """
    stop = threading.Event()

    def check(_: int) -> None:
        if stop.is_set():
            raise _StoppedError

    def work(chosen: tuple[Path, ...]) -> dict[str, str]:
        return {path.relative_to(root).as_posix(): sha256_of_file(path, progress=check) for path in chosen}

    with ThreadPoolExecutor(1, thread_name_prefix="onnxport-digest") as pool:
        digests = pool.submit(work, tuple(paths))
        try:
            yield digests.result
        finally:
            stop.set()
