"""CHMv2: canopy heights of images of any size."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.architectures._feature_fusion import fusion_patch

ARCHITECTURES = (
    Architecture(
        ("chmv2",),
        patches=(fusion_patch("transformers.models.chmv2.modeling_chmv2", "CHMv2"),),
        tiny=Tiny(fields={"backbone_config": {"...": 0, "return_class_token": True}}),
    ),
)
