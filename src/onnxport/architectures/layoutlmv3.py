"""LayoutLMv3: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(
        ("layoutlmv2", "layoutlmv3"), tiny=Tiny(fields={"coordinate_size": 4, "shape_size": 8, "input_size": 64})
    ),
)
