"""Qwen3.5's text decoder: scales of its tiny weights, whose linear attention otherwise has an output near 0.

The normalization after it divides by that output: PyTorch's float32 and float64 results then differ by the tolerance.
"""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

_LINEAR_LAYERS = 3

ARCHITECTURES = (
    Architecture(
        ("qwen3_5_text",),
        tiny=Tiny(
            scales={
                f"{model}layers.{layer}.linear_attn.conv1d.weight": 10.0
                for layer in range(_LINEAR_LAYERS)
                for model in ("", "model.")
            }
        ),
    ),
)
