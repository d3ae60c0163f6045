"""Granitemoehybrid: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(
        ("granitemoehybrid",),
        tiny=Tiny(fields={"layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"]}),
    ),
)
