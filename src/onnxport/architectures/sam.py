"""SAM: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("sam",), tiny=Tiny(fields={"vision_config": {"...": 0, "image_size": 64}})),)
