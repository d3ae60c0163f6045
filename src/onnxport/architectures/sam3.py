"""SAM 3: windowed attention on images of any size."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.architectures._image_windows import partition_patches

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("sam3", "sam3_vit_model"),
        patches=partition_patches("transformers.models.sam3.modeling_sam3"),
    ),
    Architecture(("sam3_vision_model",), tiny=Tiny(fields={"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]})),
)
