"""Moonshine: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("moonshine_streaming",), tiny=Tiny(fields={"num_key_value_heads": 4})),)
