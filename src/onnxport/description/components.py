"""The components of a model that is exported as several graphs: their names, methods, inputs and outputs."""

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
        model: the module that is exported.
        config: description of the graph.
        preprocessor: makes its example inputs.
    """

    name: str
    model: nn.Module
    config: OnnxConfig
    preprocessor: Preprocessor


@dataclass(frozen=True)
class Part:
    """Describe an encoder by the method that it is exported from.

    Attributes:
        method: method of the model that returns the features.
        input: its main input.
        output: name of the features in the graph.
        token: configuration field with the id of the features' placeholder token; empty if there is none.
    """

    method: str
    input: str
    output: str
    token: str = ""


MODALITY_ENCODERS = {
    "vision_encoder": Part("get_image_features", "pixel_values", "image_features", "image_token_id"),
    "audio_encoder": Part("get_audio_features", "input_features", "audio_features", "audio_token_id"),
}
"""Encoders of images and audio for a text decoder."""

SPLIT_ENCODERS = {
    "text_model": Part("get_text_features", "input_ids", "text_embeds"),
    "vision_model": Part("get_image_features", "pixel_values", "image_embeds"),
    "audio_model": Part("get_audio_features", "input_features", "audio_embeds"),
}
"""Encoders of a dual encoder, which compares text with images or audio."""

PROMPT_DECODER = "prompt_encoder_mask_decoder"
"""Name of the graph that decodes the prompts of SAM, from the outputs of `vision_encoder`."""
CODES_DECODER = "decoder_model"
"""Name of the graph that decodes the codes of an audio codec, which `encoder_model` returns."""
AUDIO_DECODER = "encodec_decode"
"""Name of the graph that makes audio of the codes that Bark and MusicGen generate."""
PROJECTIONS = {
    "text_projection": ("enc_to_dec_proj", "hidden_states"),
    "melody_projection": ("audio_enc_to_dec_proj", "input_features"),
}
"""Graphs that project the text and the melody of MusicGen Melody, to the name of the layer and of its input."""
POSTNET = "decoder_postnet"
"""Name of the graph that refines the spectrogram of all steps of SpeechT5."""
IMAGE_EMBEDDINGS = "image_embeddings"
"""Name of the embeddings that it takes, `image_embeddings.0` if there are several."""
