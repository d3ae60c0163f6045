"""Fit example sounds to each other, and to their text: how many frames, samples or codes a model wants together.

A preprocessor makes each of them by itself, or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_FRAMES = 20
_CODES_BESIDE = ("kyutai_speech_to_text",)
_CODES_BELOW = ("musicgen_decoder", "musicgen_melody_decoder")
_FULL_GROUPS = ("nemotron3_5_transcribe_audio",)
_DIVIDING = ("nemo_speechlm", "nemotron3_5_transcribe_audio")
_BOTH = ("input_features", "input_features_mask")


def fit(config: Any, parameters: Iterable[str], inputs: dict[str, Any]) -> None:
    """Change example inputs to what a model takes.

    Args:
        config: its configuration.
        parameters: what its forward takes.
        inputs: by name; changed in place.
    """
    if "input_features" not in parameters:
        return
    _as_long_as_text(config, inputs)
    _as_long_as_audio(config, inputs)
    _in_full_groups(config, inputs)
    unsteady(config, inputs)


def unsteady(config: Any, inputs: dict[str, Any]) -> None:
    """Leave the features of a sound to chance where a model divides them by how much they vary in time.

    Those of a steady tone don't: what would be compared is how two runtimes round.
    """
    if config.model_type in _DIVIDING and "input_features" in inputs:
        inputs["input_features"] = inputs["input_features"].new_zeros(inputs["input_features"].shape)


def fitted_axes(config: Any, inputs: Mapping[str, Any]) -> dict[str, Mapping[int, str]]:
    """Return the dynamic axes of inputs that belong together, by name."""
    axes: dict[str, Mapping[int, str]] = {}
    if "input_features" not in inputs:
        return axes
    if "input_ids" in inputs and hasattr(config, "audio_length_per_tok"):
        axes["input_features"] = {0: "batch", 2: "sequence"}
    if "input_values" in inputs:  # as many samples to each frame
        axes["input_values"] = {0: "batch", 2: "audio_sequence"}
        axes["input_features"] = {0: "batch", 1: "audio_sequence"}
    mask = inputs.get("input_features_mask")
    if mask is not None and mask.shape[1] == inputs["input_features"].shape[1]:
        axes |= {name: {0: "batch", 1: "audio_sequence"} for name in _BOTH}
    return axes


def is_fitted(config: Any, inputs: Mapping[str, Any]) -> bool:
    """Say whether a preprocessor alone doesn't make what a model takes."""
    kinds = (*_CODES_BESIDE, *_CODES_BELOW, *_FULL_GROUPS, *_DIVIDING)
    return config.model_type in kinds or bool(fitted_axes(config, inputs))


def as_codes(config: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Return tokens in the form that a model takes which reads several codes of a sound at each step; else as they are.

    They stand beside each other, with the token of the text, or below each other as if they were more texts.
    """
    count = int(getattr(config, "num_codebooks", None) or 1)
    if config.model_type in _CODES_BESIDE:
        return tokens[..., None].repeat(1, 1, count + 1)
    return tokens.repeat(count, 1) if config.model_type in _CODES_BELOW else tokens


def _as_long_as_text(config: Any, inputs: dict[str, Any]) -> None:
    """Give a sound as many frames as belong to its text, where a model hears some of them at each token."""
    import torch

    frames, audio = getattr(config, "audio_length_per_tok", None), inputs.get("input_features")
    if frames and audio is not None and "input_ids" in inputs:
        inputs["input_features"] = torch.zeros(*audio.shape[:2], frames * inputs["input_ids"].shape[1])


def _as_long_as_audio(config: Any, inputs: dict[str, Any]) -> None:
    """Make samples and the frames that a second encoder hears of them, for a codec with an encoder of meanings."""
    import torch

    heard, audio = getattr(config, "semantic_model_config", None), inputs.get("input_values")
    if heard is None or audio is None or not hasattr(config, "downsampling_ratios"):
        return
    inputs["input_values"] = torch.zeros(audio.shape[0], 1, _FRAMES * math.prod(config.downsampling_ratios))
    inputs["input_features"] = torch.zeros(audio.shape[0], _FRAMES, heard.feature_projection_input_dim)


def _in_full_groups(config: Any, inputs: dict[str, Any]) -> None:
    """Leave out the last frames of a sound where a model joins several, and wants all of its groups full."""
    if config.model_type not in _FULL_GROUPS:
        return
    frames = inputs["input_features"].shape[1] // config.subsampling_factor * config.subsampling_factor
    for name in (*_BOTH, "attention_mask"):
        if name in inputs:
            inputs[name] = inputs[name][:, :frames].contiguous()
