"""Depth Pro: fields of its tiny configuration, and image size."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(
        ("depth_pro",), tiny=Tiny(fields={"patch_size": 64, "intermediate_hook_ids": [3, 1]}, image_size=(256, 256))
    ),
)
