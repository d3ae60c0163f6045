"""MiniCPM-V: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(
        ("minicpm_ocr", "minicpm_ocr_vision", "minicpmv4_6", "minicpmv4_6_vision", "minicpmv4_7", "minicpmv4_7_vision"),
        tiny=Tiny(fields={"insert_layer_id": 1, "image_token_id": 120}),
    ),
)
