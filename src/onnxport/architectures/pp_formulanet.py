"""Pp formulanet: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("pp_formulanet",), tiny=Tiny(fields={"vision_config": {"...": 0, "image_size": 128}})),)
