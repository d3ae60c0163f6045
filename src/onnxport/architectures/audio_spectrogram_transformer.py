"""Audio Spectrogram Transformer: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("audio-spectrogram-transformer",), tiny=Tiny(fields={"max_length": 1024})),)
