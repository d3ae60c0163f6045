"""Pix2Struct: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(("pix2struct",), tiny=Tiny(fields={"vision_config": {"...": 0, "patch_embed_hidden_size": 768}})),
    Architecture(("pix2struct_text_model",), tiny=Tiny(fields={"initializer_range": 0.02})),  # the whole model's
)
