"""Wav2Vec2: fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("wav2vec2-bert", "wav2vec2-conformer"), tiny=Tiny(fields={"vocab_size": 32})),)
