"""EdgeTAM: prompts as inputs, each of which may be left out; fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny, always
from onnxport.architectures._sam_parts import split_prompts
from onnxport.architectures._sam_prompts import SamOnnxConfig, optional_prompts

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("edgetam",),
        model=always(SamOnnxConfig),
        split=split_prompts,
        patches=(optional_prompts("transformers.models.edgetam.modeling_edgetam", "EdgeTamPromptEncoder"),),
    ),
    Architecture(
        ("edgetam_vision_model",),
        tiny=Tiny(
            fields={
                "backbone_config": {"...": 0, "architecture": "test_convnext"},
                "backbone_channel_list": [64, 48, 32, 24],
                "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            }
        ),
    ),
)
