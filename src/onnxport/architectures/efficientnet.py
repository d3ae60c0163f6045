"""EfficientNet and ALIGN: fields of their tiny configurations."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

_EFFICIENTNET = {
    "width_coefficient": 0.25,
    "depth_coefficient": 0.3,
    "hidden_dim": 320,
    "in_channels": [32, 16, 24, 40, 80, 112, 192],
    "out_channels": [16, 24, 40, 80, 112, 192, 320],
}
ARCHITECTURES = (
    Architecture(("align_vision_model",), tiny=Tiny(fields=_EFFICIENTNET)),
    Architecture(("align",), tiny=Tiny(fields={"vision_config": {"...": 0, **_EFFICIENTNET}, "projection_dim": 80})),
    Architecture(("efficientnet",), tiny=Tiny(fields=_EFFICIENTNET)),
)
