"""Granite speech5: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(
        ("granite_speech5_ctc",), tiny=Tiny(fields={"encoder_config": {"...": 0, "vocab_size": 128}}, num_mel_bins=320)
    ),
    Architecture(("granite_speech5_encoder",), tiny=Tiny(num_mel_bins=320)),
)
