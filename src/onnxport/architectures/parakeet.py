"""Parakeet: attention of padding frames, for which every key is masked."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture
from onnxport.architectures._mask_value import mask_value_patch

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("parakeet_encoder", "parakeet_ctc", "parakeet_rnnt", "parakeet_tdt"),
        patches=(mask_value_patch("transformers.models.parakeet.modeling_parakeet"),),
    ),
)
