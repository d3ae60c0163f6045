"""Xcodec2: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("xcodec2",), tiny=Tiny(fields={"quantization_dim": 64})),)
