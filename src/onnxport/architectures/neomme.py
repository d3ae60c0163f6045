"""NeoMME: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("neomme",), tiny=Tiny(fields={"head_dim": 16})),)
