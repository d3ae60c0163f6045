"""RF-DETR: fields of its tiny configuration, whose images have a whole number of windows."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("rf_detr",), tiny=Tiny(fields={"backbone_config": {"...": 0, "image_size": 112}})),)
