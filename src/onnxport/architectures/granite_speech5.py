"""Granite Speech 5: attention of padding frames, for which every key is masked."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.architectures._mask_value import mask_value_patch

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("granite_speech5_ctc",),
        tiny=Tiny(fields={"encoder_config": {"...": 0, "vocab_size": 128}}, num_mel_bins=320),
        patches=(mask_value_patch("transformers.models.granite_speech5.modeling_granite_speech5"),),
    ),
    Architecture(("granite_speech5_encoder",), tiny=Tiny(num_mel_bins=320)),
)
