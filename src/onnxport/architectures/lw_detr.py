"""Lw detr: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("lw_detr",), tiny=Tiny(fields={"projector_scale_factors": [1.0]})),)
