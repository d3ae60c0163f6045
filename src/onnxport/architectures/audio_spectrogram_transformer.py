"""Audio spectrogram transformer: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("audio-spectrogram-transformer",), tiny=Tiny(fields={"max_length": 1024})),)
