"""Wav2vec2: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (Architecture(("wav2vec2-bert", "wav2vec2-conformer"), tiny=Tiny(fields={"vocab_size": 32})),)
