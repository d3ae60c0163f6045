"""CLAP: its audio encoder is a Swin over spectrograms of any length."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.architectures._image_windows import swin_patches

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("clap",),
        patches=swin_patches("transformers.models.clap.modeling_clap", "ClapAudio", shift_by_size=True),
    ),
    Architecture(("clap_audio_model",), tiny=Tiny(fields={"patch_embeds_hidden_size": 8, "hidden_size": 64})),
)
