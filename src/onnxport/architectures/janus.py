"""Janus: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("janus_vqgan",), tiny=Tiny(fields={"base_channels": 32})),)
