"""Inkling: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("inkling_vision",), tiny=Tiny(fields={"patch_size": 8})),)
