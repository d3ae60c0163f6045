"""CHMv2: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(("chmv2",), tiny=Tiny(fields={"backbone_config": {"...": 0, "return_class_token": True}})),
)
