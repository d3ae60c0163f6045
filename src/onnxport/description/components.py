"""What the graphs of a model that becomes several are called, take and give."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """Name what one graph is made of.

    Attributes:
        method: the model's method that gives its states.
        input: its main input.
        output: name of the states.
        token: what the configuration calls the token that leaves room for them in a text; empty where none does.
    """

    method: str
    input: str
    output: str
    token: str = ""


MODALITY_ENCODERS = {
    "vision_encoder": Part("get_image_features", "pixel_values", "image_features", "image_token_id"),
    "audio_encoder": Part("get_audio_features", "input_features", "audio_features", "audio_token_id"),
}
"""What encodes pictures or sounds for a decoder of texts."""

SPLIT_ENCODERS = {
    "text_model": Part("get_text_features", "input_ids", "text_embeds"),
    "vision_model": Part("get_image_features", "pixel_values", "image_embeds"),
    "audio_model": Part("get_audio_features", "input_features", "audio_embeds"),
}
"""The halves of a model that compares texts with pictures or sounds."""
