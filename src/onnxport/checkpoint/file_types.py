"""Reject files that aren't weights despite their name: Git LFS pointers, HTML pages, empty files."""

from __future__ import annotations

from pathlib import Path

from onnxport.errors import CheckpointNotFoundError, CorruptCheckpointError

_LFS_POINTER = b"version https://git-lfs"
_PAGE_STARTS = (b"<!doctype", b"<html", b"<?xml")


def check_file_type(path: Path) -> None:
    """Raise if a weight file is empty, a Git LFS pointer or an HTML page.

    Raises:
        CheckpointNotFoundError: the file can't be opened.
        CorruptCheckpointError: the file isn't weights.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise CheckpointNotFoundError(
            f"{path}: the weights can't be read ({error.strerror or error}); check the path and its permissions"
        ) from error
    if not start:
        raise CorruptCheckpointError(f"{path} is empty (0 bytes); download or save the file again")
    if start.startswith(_LFS_POINTER):
        raise CorruptCheckpointError(
            f"{path} is a Git LFS pointer, not the weights; run `git lfs pull` in the repository, or download the file"
        )
    if start.lstrip().lower().startswith(_PAGE_STARTS):
        raise CorruptCheckpointError(
            f"{path} is an HTML page, not the weights (the server returned an error page); download the file again"
        )
