"""Mobilebert: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("mobilebert",), tiny=Tiny(fields={"embedding_size": 16})),)
