"""SAM 2: windowed attention on images of any size."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.architectures._image_windows import partition_patches

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("sam2",),
        patches=partition_patches("transformers.models.sam2.modeling_sam2"),
    ),
    Architecture(
        ("sam2_hiera_det_model",), tiny=Tiny(fields={"hidden_size": 8, "window_size_per_stage": [8, 4, 6, 3]})
    ),
    Architecture(("sam2_vision_model",), tiny=Tiny(fields={"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]})),
)
