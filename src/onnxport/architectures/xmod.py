"""Xmod: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("xmod",), tiny=Tiny(fields={"languages": ["en_XX"], "default_language": "en_XX"})),)
