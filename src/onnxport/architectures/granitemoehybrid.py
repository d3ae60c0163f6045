"""GraniteMoeHybrid: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(
        ("granitemoehybrid",),
        tiny=Tiny(fields={"layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"]}),
    ),
)
