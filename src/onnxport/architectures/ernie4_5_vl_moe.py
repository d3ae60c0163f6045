"""Ernie4 5 vl moe: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("ernie4_5_vl_moe_text",), tiny=Tiny(fields={"moe_intermediate_size": [32, 32]})),)
