"""Apertus 1.5 (Transformers 5.24): codes of images and audio in the tiny vocabulary."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(
        ("apertus1p5",),
        tiny=Tiny(
            fields={
                "vision_config": {"...": 0, "codebook_size": 16, "base_channels": 32},
                "audio_config": {"...": 0, "codebook_size": 16},
                "image_token_offset": 64,
                "audio_token_offset": 80,
            }
        ),
    ),
)
