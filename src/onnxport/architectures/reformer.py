"""Reformer: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(("reformer",), tiny=Tiny(fields={"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [16, 32]})),
)
