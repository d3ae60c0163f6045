"""EfficientLoFTR: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(
        ("efficientloftr",),
        tiny=Tiny(fields={"out_features": [8, 8, 16, 32], "num_attention_heads": 8, "fine_matching_slice_dim": 4}),
    ),
)
