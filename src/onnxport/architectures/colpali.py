"""ColPali: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(
        ("colpali",), tiny=Tiny(fields={"vlm_config": {"...": 0, "vision_config": {"...": 0, "patch_size": 32}}})
    ),
)
