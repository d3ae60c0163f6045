"""SAM 2: windowed attention on images of any size; prompts as inputs, each of which may be left out."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny, always
from onnxport.architectures._image_windows import partition_patches
from onnxport.architectures._sam_parts import split_prompts
from onnxport.architectures._sam_prompts import SamOnnxConfig, optional_prompts

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("sam2", "sam2_video", "edgetam_video"),  # a checkpoint for videos is also one for images
        model=always(SamOnnxConfig),
        split=split_prompts,
        patches=(
            *partition_patches("transformers.models.sam2.modeling_sam2"),
            optional_prompts("transformers.models.sam2.modeling_sam2", "Sam2PromptEncoder"),
        ),
    ),
    Architecture(
        ("sam2_hiera_det_model",), tiny=Tiny(fields={"hidden_size": 8, "window_size_per_stage": [8, 4, 6, 3]})
    ),
    Architecture(("sam2_vision_model",), tiny=Tiny(fields={"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]})),
)
