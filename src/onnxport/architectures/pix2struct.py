"""Pix2Struct: its branch on infinite values, and fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.architectures._clamping import isinf_patch

ARCHITECTURES = (
    Architecture(
        ("pix2struct",),
        patches=(isinf_patch("transformers.models.pix2struct.modeling_pix2struct"),),
        tiny=Tiny(fields={"vision_config": {"...": 0, "patch_embed_hidden_size": 768}}),
    ),
    Architecture(("pix2struct_text_model",), tiny=Tiny(fields={"initializer_range": 0.02})),  # the whole model's
)
