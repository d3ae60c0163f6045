"""DPT, ZoeDepth, Prompt Depth Anything and TIPSv2's DPT: depth maps of any size."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture
from onnxport.architectures._feature_fusion import fusion_patch

_MODELS = "transformers.models"

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(("dpt",), patches=(fusion_patch(f"{_MODELS}.dpt.modeling_dpt", "DPT"),)),
    Architecture(("zoedepth",), patches=(fusion_patch(f"{_MODELS}.zoedepth.modeling_zoedepth", "ZoeDepth"),)),
    Architecture(
        ("prompt_depth_anything",),
        patches=(
            fusion_patch(f"{_MODELS}.prompt_depth_anything.modeling_prompt_depth_anything", "PromptDepthAnything"),
        ),
    ),
    Architecture(("tipsv2_dpt",), patches=(fusion_patch(f"{_MODELS}.tipsv2_dpt.modeling_tipsv2_dpt", "Tipsv2Dpt"),)),
)
