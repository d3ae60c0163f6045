"""DeepSeek-OCR 2 and Unlimited OCR: fields of their tiny configurations."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

_DEEPSEEK_VISION = {"encoder_config": {"...": 0, "hidden_size": 112}}
_UNLIMITED_VISION = {"encoder_config": {"...": 0, "hidden_size": 128}}
ARCHITECTURES = (
    Architecture(("deepseek_ocr2",), tiny=Tiny(fields={"vision_config": {"...": 0, **_DEEPSEEK_VISION}})),
    Architecture(("deepseek_ocr2_vision",), tiny=Tiny(fields=_DEEPSEEK_VISION)),
    Architecture(
        ("deepseek_ocr2_text",), tiny=Tiny(fields={"mlp_layer_types": ["dense", "dense", "sparse", "sparse"]})
    ),
    Architecture(("unlimited_ocr",), tiny=Tiny(fields={"vision_config": {"...": 0, **_UNLIMITED_VISION}})),
    Architecture(("unlimited_ocr_vision",), tiny=Tiny(fields=_UNLIMITED_VISION)),
)
