"""Gemma 4 and EmbeddingGemma 2: fields of their tiny configurations."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(
        ("gemma4", "embedding_gemma2"),
        tiny=Tiny(
            fields={"audio_config": {"...": 0, "subsampling_conv_channels": [128, 32]}},
            base={"vision_config": {"model_type": "gemma4_vision"}, "audio_config": {"model_type": "gemma4_audio"}},
        ),
    ),
    Architecture(
        ("gemma4_assistant",),
        tiny=Tiny(
            base={
                "text_config": {
                    "model_type": "gemma4_text",
                    "hidden_size_per_layer_input": 0,
                    "vocab_size_per_layer_input": 0,
                }
            }
        ),
    ),
    Architecture(("gemma4_audio",), tiny=Tiny(fields={"subsampling_conv_channels": [128, 32]})),
    Architecture(("gemma4_unified",), tiny=Tiny(base={"vision_config": {"model_type": "gemma4_unified_vision"}})),
    Architecture(
        ("gemma4_unified_assistant",),
        tiny=Tiny(base={"text_config": {"model_type": "gemma4_unified_text", "num_kv_shared_layers": 0}}),
    ),
    Architecture(("gemma4_unified_text",), tiny=Tiny(fields={"num_kv_shared_layers": 0})),
)
