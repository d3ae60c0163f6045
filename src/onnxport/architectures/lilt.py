"""LiLT: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("lilt",), defaults=lambda _: {"bbox": "zeros"}, tiny=Tiny(fields={"hidden_size": 48})),)
