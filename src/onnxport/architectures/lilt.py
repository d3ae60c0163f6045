"""LiLT: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("lilt",), tiny=Tiny(fields={"hidden_size": 48})),)
