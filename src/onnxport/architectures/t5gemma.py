"""T5Gemma: fields of their tiny configurations."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(("t5gemma",), tiny=Tiny(tasks={"text-encoding": {"is_encoder_decoder": False}})),
    Architecture(
        ("t5gemma2_encoder",),
        tiny=Tiny(fields={"mm_tokens_per_image": 4, "text_config": {"...": 0, "dropout_rate": 0.0}}),
    ),
)
