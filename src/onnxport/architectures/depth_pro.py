"""Depth Pro: static image size; fields of its tiny configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture, Tiny, always
from onnxport.description.derived import DerivedOnnxConfig

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


class DepthProOnnxConfig(DerivedOnnxConfig):
    """Describe Depth Pro, which computes a Python integer from the logarithm of the image's width."""

    @property
    def static_symbols(self) -> frozenset[str]:
        """Height and width: the processor resizes every image to 1536 x 1536 pixels."""
        return frozenset({"height", "width"})


def _image_size(config: PreTrainedConfig) -> tuple[int, int]:
    """Return the size at which the smallest scaled image is one patch, 1536 x 1536 pixels by default."""
    side = int(config.patch_size / min(config.scaled_images_ratios))
    return side, side


ARCHITECTURES = (
    Architecture(
        ("depth_pro",),
        model=always(DepthProOnnxConfig),
        image_size=_image_size,
        tiny=Tiny(fields={"patch_size": 64, "intermediate_hook_ids": [3, 1]}, image_size=(256, 256)),
    ),
)
