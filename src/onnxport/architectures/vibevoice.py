"""VibeVoice: fields of their tiny configurations."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(
        ("vibevoice_acoustic_tokenizer",),
        tiny=Tiny(fields={"num_filters": 4, "hidden_size": 16, "depths": [1, 1, 1, 1, 1, 1, 1]}),
    ),
    Architecture(
        ("vibevoice_acoustic_tokenizer_decoder", "vibevoice_acoustic_tokenizer_encoder"),
        tiny=Tiny(fields={"num_filters": 4, "depths": [1, 1, 1, 1, 1, 1, 1]}),
    ),
)
