"""Fit the lengths of dummy audio inputs to each other, and to the text.

Models require certain ratios between the numbers of frames, samples and codes, but preprocessors make each input
independently, or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_FRAMES = 20
_FEATURES_AND_MASK = ("input_features", "input_features_mask")
_CHANNELS_RANK = 3
_MAX_CHANNELS = 2
"""Most channels of audio, [batch, channels, samples]; a spectrogram, [batch, frames, mel bins], has more frames."""


def fit(config: PreTrainedConfig, parameters: Iterable[str], inputs: dict[str, Any]) -> None:
    """Resize dummy audio inputs to lengths that a model accepts.

    Args:
        config: the model's configuration.
        parameters: names of its forward's parameters.
        inputs: dummy inputs by name; changed in place.
    """
    if "input_features" not in parameters:
        return
    _fit_audio_to_text(config, inputs)
    _fit_codec_inputs(config, inputs)


def samples_axes(inputs: Mapping[str, Any]) -> dict[str, Mapping[int, str]]:
    """Return the dynamic axes of samples by channel, [batch, channels, samples], and of their mask, by name."""
    audio = inputs.get("input_values")
    if audio is None or audio.dim() != _CHANNELS_RANK or audio.shape[1] > _MAX_CHANNELS:
        return {}
    masks = {name: value.dim() - 1 for name, value in inputs.items() if name.endswith("mask")}
    covering = {name: last for name, last in masks.items() if inputs[name].shape[last] == audio.shape[2]}
    return {name: {0: "batch", last: "audio_sequence"} for name, last in {"input_values": 2, **covering}.items()}


def fitted_axes(config: PreTrainedConfig, inputs: Mapping[str, Any]) -> dict[str, Mapping[int, str]]:
    """Return the dynamic axes of inputs whose lengths depend on each other, by name."""
    axes: dict[str, Mapping[int, str]] = {}
    if "input_features" not in inputs:
        return axes
    if "input_ids" in inputs and hasattr(config, "audio_length_per_tok"):
        axes["input_features"] = {0: "batch", 2: "sequence"}
    if "input_values" in inputs:  # a fixed number of samples per frame
        axes["input_values"] = {0: "batch", 2: "audio_sequence"}
        axes["input_features"] = {0: "batch", 1: "audio_sequence"}
    mask = inputs.get("input_features_mask")
    if mask is not None and mask.shape[1] == inputs["input_features"].shape[1]:
        axes |= {name: {0: "batch", 1: "audio_sequence"} for name in _FEATURES_AND_MASK}
    return axes


def _fit_audio_to_text(config: PreTrainedConfig, inputs: dict[str, Any]) -> None:
    """Resize audio to `audio_length_per_tok` frames per token."""
    import torch

    frames, audio = getattr(config, "audio_length_per_tok", None), inputs.get("input_features")
    if frames and audio is not None and "input_ids" in inputs:
        inputs["input_features"] = torch.zeros(*audio.shape[:2], frames * inputs["input_ids"].shape[1])


def _fit_codec_inputs(config: PreTrainedConfig, inputs: dict[str, Any]) -> None:
    """Make samples and features of equal duration for a codec with an acoustic and a semantic encoder."""
    import torch

    semantic, audio = getattr(config, "semantic_model_config", None), inputs.get("input_values")
    if semantic is None or audio is None or not hasattr(config, "downsampling_ratios"):
        return
    samples = _FRAMES * math.prod(config.downsampling_ratios)
    inputs["input_values"] = torch.zeros(audio.shape[0], 1, samples)
    inputs["input_features"] = torch.zeros(audio.shape[0], _FRAMES, semantic.feature_projection_input_dim)
    for name, length in (("padding_mask", samples), (_FEATURES_AND_MASK[1], _FRAMES)):
        if name in inputs:
            inputs[name] = inputs[name].new_ones(audio.shape[0], length)
