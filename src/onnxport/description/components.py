"""What the graphs of a model that becomes several are called, take and return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from onnxport.configs import OnnxConfig
    from onnxport.description.preprocessor import Preprocessor


@dataclass(frozen=True)
class Component:
    """Describe one graph of an export.

    Attributes:
        name: file name without suffix, `model` for a single graph.
        model: the module that becomes the graph.
        config: description of the graph.
        preprocessor: makes its example inputs.
    """

    name: str
    model: nn.Module
    config: OnnxConfig
    preprocessor: Preprocessor


@dataclass(frozen=True)
class Part:
    """Name what one graph is made of.

    Attributes:
        method: the model's method that returns its features.
        input: its main input.
        output: name of the features.
        token: what the configuration calls the placeholder token of the features in a prompt; empty where there is
            none.
    """

    method: str
    input: str
    output: str
    token: str = ""


MODALITY_ENCODERS = {
    "vision_encoder": Part("get_image_features", "pixel_values", "image_features", "image_token_id"),
    "audio_encoder": Part("get_audio_features", "input_features", "audio_features", "audio_token_id"),
}
"""Encoders of images and audio for a decoder of text."""

SPLIT_ENCODERS = {
    "text_model": Part("get_text_features", "input_ids", "text_embeds"),
    "vision_model": Part("get_image_features", "pixel_values", "image_embeds"),
    "audio_model": Part("get_audio_features", "input_features", "audio_embeds"),
}
"""The encoders of a model that compares text with images or audio."""
