"""Blenderbot: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("blenderbot",), tiny=Tiny(fields={"encoder_layers": 4})),)
