"""Clvp: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(
        ("clvp",),
        tiny=Tiny(
            fields={
                "decoder_config": {"...": 0, "decoder_fixing_codes": [83, 45, 45, 100], "feature_size": 80},
                "text_config": {"...": 0, "num_attention_heads": 1},
                "speech_config": {"...": 0, "num_attention_heads": 1},
            }
        ),
    ),
)
