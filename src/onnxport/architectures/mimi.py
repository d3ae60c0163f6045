"""Mimi: padding computed from sizes."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture
from onnxport.architectures._codec_padding import padding_patch

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("mimi", "mimi_encoder", "mimi_decoder"),
        patches=(padding_patch("transformers.models.mimi.modeling_mimi:MimiConv1d"),),
    ),
)
