"""dots.llm1: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(
        ("dots1",), tiny=Tiny(fields={"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1})
    ),
)
