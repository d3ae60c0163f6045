"""EdgeTAM: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(
        ("edgetam_vision_model",),
        tiny=Tiny(
            fields={
                "backbone_config": {"...": 0, "architecture": "test_convnext"},
                "backbone_channel_list": [64, 48, 32, 24],
                "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            }
        ),
    ),
)
