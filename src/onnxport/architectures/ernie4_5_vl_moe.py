"""Ernie 4.5 VL MoE: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("ernie4_5_vl_moe_text",), tiny=Tiny(fields={"moe_intermediate_size": [32, 32]})),)
