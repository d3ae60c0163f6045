"""Jamba: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("jamba",), tiny=Tiny(fields={"attn_layer_period": 2, "attn_layer_offset": 1})),)
