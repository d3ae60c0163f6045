"""SeamlessM4T: its base model takes text or speech."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture

ARCHITECTURES = (
    Architecture(("seamless_m4t", "seamless_m4t_v2"), left_out={"input_features": "speech instead of the text"}),
)
