"""Describe AIMv2, which is exported with its eager attention.

With PyTorch's attention, Transformers' text encoder attends to later tokens where the text has no padding, and only to
earlier ones where it has. It was trained with the latter, which its eager attention computes for both.
"""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, always
from onnxport.description.derived import DerivedOnnxConfig


class Aimv2OnnxConfig(DerivedOnnxConfig):
    """Describe AIMv2."""

    attn_implementation = "eager"


ARCHITECTURES = (Architecture(("aimv2",), model=always(Aimv2OnnxConfig)),)
