"""Bamba: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("bamba",), tiny=Tiny(fields={"attn_layer_indices": [1, 3]})),)
