"""Swin, Swin v2, Swin2SR, and the Swin backbones of Donut and MaskFormer: windowed attention on images of any size."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.architectures._image_windows import swin_patches

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("swin",),
        tiny=Tiny(fields={"encoder_stride": 32, "window_size": 2}),
        patches=swin_patches("transformers.models.swin.modeling_swin", "Swin", shift_by_size=True),
    ),
    Architecture(
        ("donut-swin",),
        tiny=Tiny(fields={"window_size": 2}),
        patches=swin_patches("transformers.models.donut.modeling_donut_swin", "DonutSwin", shift_by_size=True),
    ),
    Architecture(
        ("maskformer-swin",),
        tiny=Tiny(fields={"window_size": 2}),
        patches=swin_patches("transformers.models.maskformer.modeling_maskformer_swin", "MaskFormerSwin"),
    ),
    Architecture(("swinv2",), patches=swin_patches("transformers.models.swinv2.modeling_swinv2", "Swinv2")),
    Architecture(
        ("swin2sr",),
        tiny=Tiny(fields={"num_heads": [2, 2], "depths": [2, 2]}),
        patches=swin_patches("transformers.models.swin2sr.modeling_swin2sr", "Swin2SR"),
    ),
)
