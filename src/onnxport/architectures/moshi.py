"""Moshi: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(("moshi",), tiny=Tiny(fields={"depth_decoder_config": {"...": 0, "audio_vocab_size": 32}})),
)
