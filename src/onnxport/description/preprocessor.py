"""The interface of a checkpoint's preprocessor."""

from __future__ import annotations

from os import PathLike
from typing import Any, Protocol


class Preprocessor(Protocol):
    """A tokenizer, image processor, feature extractor or processor of Transformers.

    The sub-processors of a processor are its attributes: `tokenizer`, `image_processor`, `feature_extractor`.
    """

    def save_pretrained(self, save_directory: str | PathLike[str], /) -> Any:
        """Write its files to a directory."""
