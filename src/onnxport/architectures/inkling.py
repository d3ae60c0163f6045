"""Inkling: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("inkling_vision",), tiny=Tiny(fields={"patch_size": 8})),)
