"""Blenderbot: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("blenderbot",), tiny=Tiny(fields={"encoder_layers": 4})),)
