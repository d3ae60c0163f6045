"""PerceptionLM: fields of its tiny configuration, and image size."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(
        ("perception_lm",),
        tiny=Tiny(
            fields={"vision_config": {"...": 0, "architecture": "test_vit", "model_args": {"embed_dim": 64}}},
            base={"vision_config": {"model_type": "timm_wrapper", "model_args": {"embed_dim": 64}}},
            image_size=(160, 160),
        ),
    ),
)
