"""X-MOD: one language, that of its configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(
        ("xmod",),
        left_out={"lang_ids": "the batch is split by its values: the graph uses the adapters of default_language"},
        tiny=Tiny(fields={"languages": ["en_XX"], "default_language": "en_XX"}),
    ),
)
