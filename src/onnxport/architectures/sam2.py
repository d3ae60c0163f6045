"""SAM 2: windows of images of any size."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture
from onnxport.architectures._image_windows import partition_patches

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("sam2", "sam2_vision_model", "sam2_hiera_det_model"),
        patches=partition_patches("transformers.models.sam2.modeling_sam2"),
    ),
)
