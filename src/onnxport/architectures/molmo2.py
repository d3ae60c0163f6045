"""Molmo 2: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("molmo2_adapter",), tiny=Tiny(fields={"vision_feature_layer": [3, 2]})),)
