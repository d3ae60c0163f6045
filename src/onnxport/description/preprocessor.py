"""The interface of a checkpoint's preprocessor, and a combination of several."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from transformers import FeatureExtractionMixin, PreTrainedTokenizerBase
    from transformers.image_processing_base import ImageProcessingMixin


class Preprocessor(Protocol):
    """A tokenizer, image processor, feature extractor or processor of Transformers.

    The sub-processors of a processor are its attributes: `tokenizer`, `image_processor`, `feature_extractor`.
    """

    def save_pretrained(self, save_directory: str | PathLike[str], /) -> Any:
        """Write its files to a directory."""


@dataclass(frozen=True)
class Preprocessors:
    """A tokenizer with an image processor or feature extractor, for model types without a processor class.

    Attributes:
        tokenizer: the tokenizer.
        image_processor: the image processor; None for audio models.
        feature_extractor: the feature extractor; None for vision models.
    """

    tokenizer: PreTrainedTokenizerBase
    image_processor: ImageProcessingMixin | None = None
    feature_extractor: FeatureExtractionMixin | None = None

    def save_pretrained(self, save_directory: str | PathLike[str], /) -> None:
        """Save the files of both to a directory."""
        for part in (self.tokenizer, self.image_processor, self.feature_extractor):
            if part is not None:
                part.save_pretrained(save_directory)
