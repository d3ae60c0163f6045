"""Swin, Swin v2, Swin2SR, and the Swin backbones of Donut and MaskFormer: windowed attention on images of any size."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.architectures._image_windows import patch_padding, swin_patches

_MODELS = "transformers.models"
_SWIN, _SWIN_V2 = f"{_MODELS}.swin.modeling_swin", f"{_MODELS}.swinv2.modeling_swinv2"
_DONUT, _MASKFORMER = f"{_MODELS}.donut.modeling_donut_swin", f"{_MODELS}.maskformer.modeling_maskformer_swin"

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("swin",),
        tiny=Tiny(fields={"encoder_stride": 32, "window_size": 2}),
        patches=(*swin_patches(_SWIN, "Swin", shift_by_size=True), patch_padding(_SWIN, "Swin")),
    ),
    Architecture(
        ("donut-swin",),
        tiny=Tiny(fields={"window_size": 2}),
        patches=(*swin_patches(_DONUT, "DonutSwin", shift_by_size=True), patch_padding(_DONUT, "DonutSwin")),
    ),
    Architecture(
        ("maskformer-swin",),
        tiny=Tiny(fields={"window_size": 2}),
        patches=(*swin_patches(_MASKFORMER, "MaskFormerSwin"), patch_padding(_MASKFORMER, "MaskFormerSwin")),
    ),
    Architecture(("swinv2",), patches=(*swin_patches(_SWIN_V2, "Swinv2"), patch_padding(_SWIN_V2, "Swinv2"))),
    Architecture(
        ("swin2sr",),
        tiny=Tiny(fields={"num_heads": [2, 2], "depths": [2, 2]}),
        patches=swin_patches(f"{_MODELS}.swin2sr.modeling_swin2sr", "Swin2SR"),
    ),
)
