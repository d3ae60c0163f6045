"""Qwen4 exp: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(
        ("qwen4_exp_text",),
        tiny=Tiny(
            fields={
                "indexer_n_heads": 2,
                "indexer_kv_heads": 1,
                "indexer_head_dim": 8,
                "indexer_budget": 64,
                "indexer_compress_ratio": 4,
            }
        ),
    ),
)
