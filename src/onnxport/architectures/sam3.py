"""SAM 3: windows of images of any size."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture
from onnxport.architectures._image_windows import partition_patches

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("sam3", "sam3_vision_model", "sam3_vit_model"),
        patches=partition_patches("transformers.models.sam3.modeling_sam3"),
    ),
)
