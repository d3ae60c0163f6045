"""Hunyuan v4 VL (Transformers 5.24): rotary dimensions of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

_ROPE = {"rope_theta": 10000.0, "rope_type": "default", "mrope_section": [1, 1, 2]}

ARCHITECTURES = (
    Architecture(
        ("hy_v4_vl",),
        tiny=Tiny(fields={"text_config": {"...": 0, "qk_rope_head_dim": 8, "rope_parameters": _ROPE}}),
    ),
    Architecture(("hy_v4_vl_text",), tiny=Tiny(fields={"qk_rope_head_dim": 8, "rope_parameters": _ROPE})),
)
