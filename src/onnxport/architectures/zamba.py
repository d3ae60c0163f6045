"""Zamba: fields of their tiny configurations."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(
        ("zamba",),
        tiny=Tiny(fields={"layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"]}),
    ),
    Architecture(
        ("zamba2",),
        tiny=Tiny(
            fields={
                "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
                "mamba_headdim": 8,
            }
        ),
    ),
)
