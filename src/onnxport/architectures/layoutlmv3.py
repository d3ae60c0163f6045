"""Layoutlmv3: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(
        ("layoutlmv2", "layoutlmv3"), tiny=Tiny(fields={"coordinate_size": 4, "shape_size": 8, "input_size": 64})
    ),
)
