"""Emu3: fields of their tiny configurations."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

_VOCABULARY = {f"<|visual token {i:06}|>": 64 + i for i in range(16)}
ARCHITECTURES = (
    Architecture(
        ("emu3",),
        tiny=Tiny(
            fields={
                "vocabulary_map": {"<image>": 100, "<|extra_200|>": 101, **_VOCABULARY},
                "vq_config": {"...": 0, "codebook_size": 16},
            },
            separate_tasks=("text-generation", "text-encoding"),
        ),
    ),
    Architecture(("emu3_vqgan",), tiny=Tiny(fields={"base_channels": 32, "hidden_size": 128})),
)
