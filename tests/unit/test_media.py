"""Descriptions of image and audio encoders: the method, its inputs, and the layout of its embeddings."""

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


class AudioModel(nn.Module):
    """Return one embedding for every eight frames of audio, without those of padding frames."""

    dtype = torch.float32
    config = LlamaConfig(**SMALL, num_attention_heads=2)

    def __init__(self) -> None:
        super().__init__()
        self.projector = nn.Linear(BINS * 8, SIZE)

    def get_audio_features(self, input_features: Any, input_features_mask: Any, return_dict: bool = True) -> Any:
        batch, _, length = input_features.shape
        states = self.projector(input_features.transpose(1, 2).reshape(batch, length // 8, BINS * 8))
        masks = input_features_mask[:, ::8]
        return SimpleNamespace(pooler_output=[one[mask.bool()] for one, mask in zip(states, masks, strict=True)])


class ImageModel(AudioModel):
    """Require the sizes of images."""

    def get_image_features(self, pixel_values: Any, image_sizes: Any, return_dict: bool = True) -> Any:
        ((height, width),) = image_sizes
        return SimpleNamespace(pooler_output=(pixel_values[..., :height, :width].flatten(2).transpose(1, 2)[0],))


def extractor() -> Any:
    return WhisperFeatureExtractor(feature_size=BINS, chunk_length=3)


def test_audios_have_masks_and_lengths_that_a_model_takes() -> None:
    described = ModalityEncoderOnnxConfig(AudioModel(), "audio_encoder", extractor())
    assert list(described.inputs) == ["input_features", "input_features_mask"]
    inputs = described.generate_dummy_inputs(extractor())
    frames = inputs["input_features"].shape[2]
    assert frames % 8 == 0
    assert inputs["input_features_mask"].shape == (2, frames)
    assert inputs["input_features_mask"].sum(1).unique().numel() == 2  # one clip is shorter than the other
    assert described.outputs == {"audio_features": {}}
    (states,) = described.run(AudioModel(), inputs).values()
    assert states.dim() == 2
    assert states.shape[1] == SIZE


def test_a_model_without_the_preprocessor_of_its_input_is_an_error() -> None:
    class NoAudioModel(AudioModel):
        def get_audio_features(self, input_values: Any) -> Any:  # type: ignore[override]
            return input_values

    with pytest.raises(UnsupportedError, match="returns input_values"):
        ModalityEncoderOnnxConfig(NoAudioModel(), "audio_encoder", extractor())


def test_an_image_encoder_with_image_sizes_takes_one_image() -> None:
    assert ImageSizesEncoderOnnxConfig.fits(ImageModel(), "vision_encoder")
    described = ImageSizesEncoderOnnxConfig(ImageModel(), "vision_encoder", None)
    assert described.inputs == {"pixel_values": {2: "height", 3: "width"}}
    (states,) = described.run(ImageModel(), {"pixel_values": torch.rand(1, 3, 4, 6)}).values()
    assert states.shape == (24, 3)


def test_an_encoder_of_patches_takes_patches() -> None:
    class PatchModel(AudioModel):
        config: Any = SimpleNamespace(model_type="any", vision_config=SimpleNamespace())

        def __init__(self) -> None:
            super().__init__()
            self.vision_embed = nn.Linear(12, SIZE)

        def get_image_features(self, pixel_values: Any, image_position_ids: Any, return_dict: bool = True) -> Any:
            valid = (image_position_ids >= 0).all(-1)
            return SimpleNamespace(pooler_output=self.vision_embed(pixel_values)[valid].split(valid.sum(-1).tolist()))

    described = ImagePatchesEncoderOnnxConfig(PatchModel(), "vision_encoder", None)
    assert described.inputs["pixel_values"] == {0: "batch", 1: "patches"}
    inputs = described.generate_dummy_inputs(None, batch_size=3)
    assert inputs["pixel_values"].shape == (3, 20, 12)
    (states,) = described.run(PatchModel(), inputs).values()
    assert states.shape == (3 * 16, SIZE)


def test_a_method_is_found_in_the_base_model() -> None:
    model = SimpleNamespace(model=AudioModel(), config=AudioModel.config)
    assert method_of(model, "get_audio_features") == model.model.get_audio_features
    assert method_of(model, "get_video_features") is None


def test_the_generation_class_is_that_of_the_submodel() -> None:
    text = LlamaForCausalLM(AudioModel.config)
    model = SimpleNamespace(language_model=text)
    assert language_model(model) is text
    base_model = SimpleNamespace(language_model=text.model)
    assert language_model(base_model) is base_model
