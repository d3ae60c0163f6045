"""DeepSeek-V2: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(("deepseek_v2",), tiny=Tiny(fields={"n_group": 2, "topk_group": 1, "num_experts_per_tok": 2})),
)
