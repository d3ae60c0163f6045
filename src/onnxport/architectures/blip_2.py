"""BLIP-2: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(
        ("blip-2",),
        tiny=Tiny(
            fields={"image_token_index": 120},
            tasks={
                "architecture": {"qformer_config": {"use_qformer_text_input": True}},
                "zero-shot-image-classification": {"qformer_config": {"use_qformer_text_input": True}},
            },
        ),
    ),
)
