"""Sapiens 2: fields of their tiny configurations."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(
        ("sapiens2",), tiny=Tiny(base={"head_config": {"upsample_out_channels": [32, 32], "conv_out_channels": [32]}})
    ),
    Architecture(("sapiens2_head",), tiny=Tiny(fields={"upsample_out_channels": [32, 32], "conv_out_channels": [32]})),
)
