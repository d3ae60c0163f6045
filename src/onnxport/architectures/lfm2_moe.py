"""LFM2-MoE: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(
        ("lfm2_moe",), tiny=Tiny(fields={"layer_types": ["conv", "conv", "full_attention", "full_attention"]})
    ),
)
