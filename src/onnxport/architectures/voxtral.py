"""Voxtral: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("voxtral",), tiny=Tiny(fields={"audio_token_id": 101})),)
