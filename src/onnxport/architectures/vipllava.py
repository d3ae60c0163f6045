"""VipLLaVA: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("vipllava",), tiny=Tiny(fields={"vision_feature_layer": [-2, -3, -4, 0, 1]})),)
