"""LW-DETR: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("lw_detr",), tiny=Tiny(fields={"projector_scale_factors": [1.0]})),)
