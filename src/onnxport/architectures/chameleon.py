"""Chameleon: fields of their tiny configurations."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

_VOCABULARY = {f"IMGIMG{''.join(chr(65 + int(digit)) for digit in str(i))}Z": 64 + i for i in range(16)}
ARCHITECTURES = (
    Architecture(
        ("chameleon",),
        tiny=Tiny(
            fields={"vocabulary_map": {"<image>": 100, **_VOCABULARY}, "vq_config": {"...": 0, "num_embeddings": 16}}
        ),
    ),
    Architecture(("chameleon_vqgan",), tiny=Tiny(fields={"base_channels": 32})),
)
