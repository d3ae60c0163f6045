"""A checkpoint with some preprocessors gets those that its model's inputs also need."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import transformers

from conformance.preprocessors import make_tokenizer
from onnxport.description.default_preprocessor import complete_preprocessor
from onnxport.description.preprocessor import Preprocessors


class TakesImagesAndAudio:
    def __init__(self) -> None:
        self.config = transformers.WhisperConfig(num_mel_bins=16)

    def forward(self, input_ids: torch.Tensor, pixel_values: torch.Tensor, input_features: torch.Tensor) -> None: ...


def test_the_feature_extractor_beside_an_image_processor() -> None:
    model: Any = TakesImagesAndAudio()
    images: Any = SimpleNamespace()
    tokenizer = make_tokenizer("llama", 128, 2, "<unk>")
    found: Any = complete_preprocessor(model, Preprocessors(tokenizer, image_processor=images))
    assert found.tokenizer is tokenizer
    assert found.image_processor is images
    assert isinstance(found.feature_extractor, transformers.FeatureExtractionMixin)
