"""Dummy audio inputs have sizes that match each other and the token ids."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from onnxport.architectures.kyutai_speech_to_text import KyutaiSpeechToTextOnnxConfig
from onnxport.architectures.musicgen import MusicgenDecoderOnnxConfig
from onnxport.architectures.nemotron3_5_transcribe import NemotronAudioOnnxConfig
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.fitting import fit, fitted_axes, samples_axes


def described(config_class: type[DerivedOnnxConfig], **fields: Any) -> DerivedOnnxConfig:
    """Return a description that wasn't derived from a model."""
    description = object.__new__(config_class)
    description._config = SimpleNamespace(**fields)
    description._parameters = ("input_features",)
    return description


@pytest.mark.parametrize(
    ("config_class", "shape"),
    [(KyutaiSpeechToTextOnnxConfig, (2, 3, 5)), (MusicgenDecoderOnnxConfig, (8, 3)), (DerivedOnnxConfig, (2, 3))],
)
def test_codes_are_channels_or_further_sequences(config_class: type[DerivedOnnxConfig], shape: tuple[int, ...]) -> None:
    input_ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert described(config_class, num_codebooks=4).to_codes(input_ids).shape == shape


def test_samples_by_channel_and_their_mask_have_any_length() -> None:
    samples = {0: "batch", 2: "audio_sequence"}
    mask = {"padding_mask": torch.ones(2, 240)}
    assert samples_axes({"input_values": torch.ones(2, 1, 240)}) == {"input_values": samples}
    expected = {"input_values": samples, "padding_mask": {0: "batch", 1: "audio_sequence"}}
    assert samples_axes({"input_values": torch.ones(2, 2, 240), **mask}) == expected
    assert samples_axes({"input_values": torch.ones(2, 240, 128), **mask}) == {}  # a spectrogram
    assert samples_axes({"input_values": torch.ones(2, 240), **mask}) == {}


def test_audio_codes_are_as_long_as_the_token_ids() -> None:
    config = SimpleNamespace(model_type="any", audio_length_per_tok=8)
    inputs: dict[str, Any] = {"input_ids": torch.ones(2, 5), "input_features": torch.ones(2, 80, 3000)}
    fit(config, ["input_ids", "input_features"], inputs)
    assert inputs["input_features"].shape == (2, 80, 40)
    assert fitted_axes(config, inputs) == {"input_features": {0: "batch", 2: "sequence"}}


def test_samples_of_a_codec_match_semantic_frames() -> None:
    semantic = SimpleNamespace(feature_projection_input_dim=160)
    config = SimpleNamespace(model_type="any", semantic_model_config=semantic, downsampling_ratios=[2, 5])
    masks = {"padding_mask": torch.ones(2, 777), "input_features_mask": torch.ones(2, 39)}  # of an extractor
    inputs: dict[str, Any] = {"input_values": torch.ones(2, 777), **masks}
    fit(config, ["input_values", "input_features"], inputs)
    samples, frames = inputs["input_values"].shape[2], inputs["input_features"].shape[1]
    assert samples == 10 * frames and inputs["input_features"].shape[2] == 160
    assert inputs["padding_mask"].shape == (2, samples) and inputs["input_features_mask"].shape == (2, frames)
    axes = fitted_axes(config, inputs)
    assert axes["input_values"][2] == axes["input_features"][1]


def test_incomplete_groups_of_frames_are_removed() -> None:
    config = described(NemotronAudioOnnxConfig, subsampling_factor=8)
    inputs: dict[str, Any] = {"input_features": torch.ones(2, 501, 4), "input_features_mask": torch.ones(2, 501)}
    config.fit_inputs(inputs)
    assert {value.shape[1] for value in inputs.values()} == {496}
    assert fitted_axes(config._config, inputs)["input_features_mask"] == {0: "batch", 1: "audio_sequence"}
