"""Pocket TTS: the mask of the latents of a batch that teacher forcing takes."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture

ARCHITECTURES = (Architecture(("pocket_tts", "gradium_phonon_tts"), left_out={"audio_latents_mask": "for training"}),)
