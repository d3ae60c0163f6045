"""Describe AIMv2, which is exported with its eager attention.

With SDPA attention, Transformers' text encoder attends bidirectionally if the text has no padding, and causally if it
has. It was trained with causal attention, which its eager attention computes in both cases.
"""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, always
from onnxport.description.derived import DerivedOnnxConfig


class Aimv2OnnxConfig(DerivedOnnxConfig):
    """Describe AIMv2."""

    attn_implementation = "eager"


ARCHITECTURES = (Architecture(("aimv2", "aimv2_text_model"), model=always(Aimv2OnnxConfig)),)
