"""Voxtral: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("voxtral",), tiny=Tiny(fields={"audio_token_id": 101})),)
