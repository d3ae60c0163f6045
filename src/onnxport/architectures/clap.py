"""Clap: what its tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(("clap_audio_model",), tiny=Tiny(fields={"patch_embeds_hidden_size": 8, "hidden_size": 64})),
)
