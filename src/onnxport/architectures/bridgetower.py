"""BridgeTower: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(
        ("bridgetower",),
        tiny=Tiny(
            fields={
                "text_config": {"...": 0, "hidden_size": 64},
                "vision_config": {"...": 0, "hidden_size": 64},
                "hidden_size": 64,
                "num_attention_heads": 4,
            },
            tasks={"architecture": {"contrastive_hidden_size": 64, "logit_scale_init_value": 2.6592}},
        ),
    ),
)
