"""SAM: prompts as inputs, each of which may be left out; fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny, always
from onnxport.architectures._sam_parts import split_prompts
from onnxport.architectures._sam_prompts import SamOnnxConfig, optional_prompts

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("sam",),
        model=always(SamOnnxConfig),
        split=split_prompts,
        patches=(optional_prompts("transformers.models.sam.modeling_sam", "SamPromptEncoder"),),
        tiny=Tiny(fields={"vision_config": {"...": 0, "image_size": 64}}),
    ),
    Architecture(
        ("sam_hq",),
        model=always(SamOnnxConfig),
        split=split_prompts,
        patches=(optional_prompts("transformers.models.sam_hq.modeling_sam_hq", "SamHQPromptEncoder"),),
    ),
    Architecture(
        ("sam3_tracker",),
        model=always(SamOnnxConfig),
        split=split_prompts,
        patches=(
            optional_prompts("transformers.models.sam3_tracker.modeling_sam3_tracker", "Sam3TrackerPromptEncoder"),
        ),
    ),
)
