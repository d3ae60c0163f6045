"""CLAP: its audio encoder is a Swin over spectrograms of any length."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture
from onnxport.architectures._image_windows import swin_patches

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("clap", "clap_audio_model"),
        patches=swin_patches("transformers.models.clap.modeling_clap", "ClapAudio", shift_by_size=True),
    ),
)
