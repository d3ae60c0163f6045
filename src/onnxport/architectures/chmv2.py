"""Chmv2: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(("chmv2",), tiny=Tiny(fields={"backbone_config": {"...": 0, "return_class_token": True}})),
)
