"""Gpt neo: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("gpt_neo",), tiny=Tiny(fields={"attention_types": [[["global", "local"], 2]]})),)
