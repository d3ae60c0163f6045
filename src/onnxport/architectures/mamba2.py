"""Mamba-2: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("mamba2",), tiny=Tiny(fields={"num_heads": 8})),)
