"""Higgs audio v2: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(
        ("higgs_audio_v2_tokenizer",),
        tiny=Tiny(
            fields={
                "acoustic_model_config": {
                    "...": 0,
                    "encoder_hidden_size": 8,
                    "hidden_size": 256,
                    "downsampling_ratios": [8, 5, 4, 2, 3],
                    "upsampling_ratios": [8, 5, 4, 2, 3],
                }
            },
            feature_extractor_arguments={"sampling_rate": 24000, "hop_length": 960},
        ),
    ),
)
