"""Sam3: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(("sam3_vision_model",), tiny=Tiny(fields={"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]})),
)
