"""Aria: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(
        ("aria",),
        tiny=Tiny(
            fields={
                "vision_config": {"...": 0, "image_size": 980, "patch_size": 70},
                "projector_patch_to_query_dict": {"49": 4, "196": 8},
            }
        ),
    ),
)
