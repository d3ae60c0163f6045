"""Perceiver: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("perceiver",), tiny=Tiny(fields={"num_latents": 8, "num_cross_attention_heads": 1})),)
