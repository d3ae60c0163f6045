"""Gemma 3n: fields of their tiny configurations."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(("gemma3n",), tiny=Tiny(fields={"vision_soft_tokens_per_image": 25}, image_size=(160, 160))),
    Architecture(("gemma3n_text",), tiny=Tiny(fields={"num_kv_shared_layers": 0})),
    Architecture(
        ("gemma3n_vision",),
        tiny=Tiny(fields={"architecture": "test_efficientnet", "hidden_size": 256}, image_size=(160, 160)),
    ),
)
