"""Lfm2 moe: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(
        ("lfm2_moe",), tiny=Tiny(fields={"layer_types": ["conv", "conv", "full_attention", "full_attention"]})
    ),
)
