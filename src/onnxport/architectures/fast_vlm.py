"""FastVLM: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(
        ("fast_vlm",),
        tiny=Tiny(
            fields={"vision_config": {"...": 0, "architecture": "test_convnext", "hidden_size": 64, "model_args": {}}},
            base={"vision_config": {"model_type": "timm_wrapper", "hidden_size": 64}},
        ),
    ),
)
