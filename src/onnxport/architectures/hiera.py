"""Hiera: fields of its tiny configuration, which has no decoder by default."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(("hiera",), tiny=Tiny(fields={"decoder_hidden_size": 32, "decoder_depth": 1, "decoder_num_heads": 4})),
)
