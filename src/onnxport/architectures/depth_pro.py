"""Depth Pro: static image size; fields of its tiny configuration."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny, always
from onnxport.description.derived import DerivedOnnxConfig


class DepthProOnnxConfig(DerivedOnnxConfig):
    """Describe Depth Pro, which computes a Python integer from the logarithm of the image's width."""

    @property
    def static_symbols(self) -> frozenset[str]:
        """Height and width: the processor resizes every image to 1536 x 1536 pixels."""
        return frozenset({"height", "width"})


ARCHITECTURES = (
    Architecture(
        ("depth_pro",),
        model=always(DepthProOnnxConfig),
        tiny=Tiny(fields={"patch_size": 64, "intermediate_hook_ids": [3, 1]}, image_size=(256, 256)),
    ),
)
