"""Gemma 3: fields of their tiny configurations."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(("gemma3",), tiny=Tiny(fields={"mm_tokens_per_image": 4})),
    Architecture(
        ("shieldgemma2",),
        tiny=Tiny(
            fields={"mm_tokens_per_image": 4, "yes_token_index": 100, "no_token_index": 101},
            original_names=("Gemma3ForConditionalGeneration",),
        ),
    ),
)
