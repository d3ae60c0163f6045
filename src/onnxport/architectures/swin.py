"""Swin: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(("donut-swin", "maskformer-swin"), tiny=Tiny(fields={"window_size": 2})),
    Architecture(("swin",), tiny=Tiny(fields={"encoder_stride": 32, "window_size": 2})),
    Architecture(("swin2sr",), tiny=Tiny(fields={"num_heads": [2, 2], "depths": [2, 2]})),
)
