"""The audio codec of Pocket TTS: padding computed from sizes."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture
from onnxport.architectures._codec_padding import padding_patch

_MODULE = "transformers.models.pocket_tts_audio_tokenizer.modeling_pocket_tts_audio_tokenizer"

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        (
            "pocket_tts_audio_tokenizer",
            "pocket_tts_audio_tokenizer_encoder",
            "pocket_tts_audio_tokenizer_decoder",
        ),
        patches=(padding_patch(f"{_MODULE}:PocketTTSAudioTokenizerConv1d"),),
    ),
)
