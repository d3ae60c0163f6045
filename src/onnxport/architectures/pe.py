"""Perception Encoder: settings of their tiny models."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(("pe_audio_encoder",), tiny=Tiny(feature_extractor="PeAudioFeatureExtractor")),
    Architecture(
        ("pe_video_encoder",),
        tiny=Tiny(fields={"vision_config": {"...": 0, "architecture": "test_vit", "global_pool": "token"}}),
    ),
)
