"""DeepSeek-OCR 2 and Unlimited OCR: images with crops; fields of their tiny configurations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxport.architectures._architecture import Architecture, Tiny, always
from onnxport.architectures._image_crops import ImageCropsEncoderOnnxConfig, RowsOfCropsEncoderOnnxConfig
from onnxport.description.derived import DerivedOnnxConfig


class ImagesOfOneSizeOnnxConfig(DerivedOnnxConfig):
    """Describe a vision encoder whose images have one of the sizes that the image processor makes."""

    def _axes_of(self, inputs: Mapping[str, Any]) -> dict[str, Mapping[int, str]]:
        return {**super()._axes_of(inputs), "pixel_values": {0: "batch"}}


_DEEPSEEK_VISION = {"encoder_config": {"...": 0, "hidden_size": 112}}
_UNLIMITED_VISION = {"encoder_config": {"...": 0, "hidden_size": 128}}
ARCHITECTURES = (
    Architecture(
        ("deepseek_ocr2",),
        encoders={"vision_encoder": ImageCropsEncoderOnnxConfig},
        tiny=Tiny(fields={"vision_config": {"...": 0, **_DEEPSEEK_VISION}}),
    ),
    Architecture(
        ("deepseek_ocr2_vision",), model=always(ImagesOfOneSizeOnnxConfig), tiny=Tiny(fields=_DEEPSEEK_VISION)
    ),
    Architecture(
        ("deepseek_ocr2_text",), tiny=Tiny(fields={"mlp_layer_types": ["dense", "dense", "sparse", "sparse"]})
    ),
    Architecture(
        ("unlimited_ocr",),
        encoders={"vision_encoder": RowsOfCropsEncoderOnnxConfig},
        tiny=Tiny(fields={"vision_config": {"...": 0, **_UNLIMITED_VISION}}),
    ),
    Architecture(
        ("unlimited_ocr_vision",), model=always(ImagesOfOneSizeOnnxConfig), tiny=Tiny(fields=_UNLIMITED_VISION)
    ),
)
