"""Descriptions of what encodes pictures and sounds: which method, which inputs, and how the states are given."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, WhisperFeatureExtractor

from onnxport.description.image_patches import ImagePatchesEncoderOnnxConfig
from onnxport.description.multimodal import (
    ImageSizesEncoderOnnxConfig,
    ModalityEncoderOnnxConfig,
    language_model,
    method_of,
)
from onnxport.errors import UnsupportedError

BINS, SIZE = 8, 16
SMALL = {"vocab_size": 20, "hidden_size": SIZE, "intermediate_size": 16, "num_hidden_layers": 1}


class Hears(nn.Module):
    """Give states of a sound, those of eight frames in one, and only of frames that are its own."""

    dtype = torch.float32
    config = LlamaConfig(**SMALL, num_attention_heads=2)

    def __init__(self) -> None:
        super().__init__()
        self.projector = nn.Linear(BINS * 8, SIZE)

    def get_audio_features(self, input_features: Any, input_features_mask: Any, return_dict: bool = True) -> Any:
        batch, _, length = input_features.shape
        states = self.projector(input_features.transpose(1, 2).reshape(batch, length // 8, BINS * 8))
        own = input_features_mask[:, ::8]
        return SimpleNamespace(pooler_output=[one[kept.bool()] for one, kept in zip(states, own, strict=True)])


class Sees(Hears):
    """Ask for the sizes of pictures."""

    def get_image_features(self, pixel_values: Any, image_sizes: Any, return_dict: bool = True) -> Any:
        ((height, width),) = image_sizes
        return SimpleNamespace(pooler_output=(pixel_values[..., :height, :width].flatten(2).transpose(1, 2)[0],))


def extractor() -> Any:
    return WhisperFeatureExtractor(feature_size=BINS, chunk_length=3)


def test_audios_have_masks_and_lengths_that_a_model_takes() -> None:
    described = ModalityEncoderOnnxConfig(Hears(), "audio_encoder", extractor())
    assert list(described.inputs) == ["input_features", "input_features_mask"]
    made = described.generate_dummy_inputs(extractor())
    frames = made["input_features"].shape[2]
    assert frames % 8 == 0
    assert made["input_features_mask"].shape == (2, frames)
    assert made["input_features_mask"].sum(1).unique().numel() == 2  # one is shorter than the other
    assert described.outputs == {"audio_features": {}}
    (states,) = described.run(Hears(), made).values()
    assert states.dim() == 2
    assert states.shape[1] == SIZE


def test_a_model_without_what_makes_its_input_is_refused() -> None:
    class Deaf(Hears):
        def get_audio_features(self, input_values: Any) -> Any:  # type: ignore[override]
            return input_values

    with pytest.raises(UnsupportedError, match="returns input_values"):
        ModalityEncoderOnnxConfig(Deaf(), "audio_encoder", extractor())


def test_a_image_whose_size_is_told_is_encoded_alone() -> None:
    assert ImageSizesEncoderOnnxConfig.fits(Sees(), "vision_encoder")
    described = ImageSizesEncoderOnnxConfig(Sees(), "vision_encoder", None)
    assert described.inputs == {"pixel_values": {2: "height", 3: "width"}}
    (states,) = described.run(Sees(), {"pixel_values": torch.rand(1, 3, 4, 6)}).values()
    assert states.shape == (24, 3)


def test_what_takes_patches_is_given_patches() -> None:
    class Cut(Hears):
        config: Any = SimpleNamespace(model_type="any", vision_config=SimpleNamespace())

        def __init__(self) -> None:
            super().__init__()
            self.vision_embed = nn.Linear(12, SIZE)

        def get_image_features(self, pixel_values: Any, image_position_ids: Any, return_dict: bool = True) -> Any:
            own = (image_position_ids >= 0).all(-1)
            return SimpleNamespace(pooler_output=self.vision_embed(pixel_values)[own].split(own.sum(-1).tolist()))

    described = ImagePatchesEncoderOnnxConfig(Cut(), "vision_encoder", None)
    assert described.inputs["pixel_values"] == {0: "batch", 1: "patches"}
    made = described.generate_dummy_inputs(None, batch_size=3)
    assert made["pixel_values"].shape == (3, 20, 12)
    (states,) = described.run(Cut(), made).values()
    assert states.shape == (3 * 16, SIZE)


def test_a_method_is_found_in_the_bare_model() -> None:
    whole = SimpleNamespace(model=Hears(), config=Hears.config)
    assert method_of(whole, "get_audio_features") == whole.model.get_audio_features
    assert method_of(whole, "get_video_features") is None


def test_the_text_is_written_by_the_model_inside_that_generates() -> None:
    text = LlamaForCausalLM(Hears.config)
    whole = SimpleNamespace(language_model=text)
    assert language_model(whole) is text
    bare = SimpleNamespace(language_model=text.model)
    assert language_model(bare) is bare
