"""Mamba2: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("mamba2",), tiny=Tiny(fields={"num_heads": 8})),)
