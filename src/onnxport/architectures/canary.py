"""Canary: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("canary",), tiny=Tiny(fields={"decoder_config": {"...": 0, "vocab_size": 128}})),)
