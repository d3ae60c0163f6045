"""Neomme: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("neomme",), tiny=Tiny(fields={"head_dim": 16})),)
