"""UVDoc: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(
        ("uvdoc",),
        tiny=Tiny(
            base={
                "backbone_config": {
                    "model_type": "uvdoc_backbone",
                    "out_features": ["stage1", "stage2", "stage3", "stage4", "stage5", "stage6"],
                }
            }
        ),
    ),
)
