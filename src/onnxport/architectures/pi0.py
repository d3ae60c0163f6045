"""PI0: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(("pi0",), tiny=Tiny(fields={"vlm_config": {"...": 0, "vision_config": {"...": 0, "patch_size": 32}}})),
)
