"""Jamba: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("jamba",), tiny=Tiny(fields={"attn_layer_period": 2, "attn_layer_offset": 1})),)
