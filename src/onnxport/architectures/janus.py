"""Janus: the size of the images that its VQ-VAE decodes, and fields of its tiny configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture, Tiny

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def _image_size(config: PreTrainedConfig) -> tuple[int, int]:
    """Return the patches per side times the factor by which each level but the last halves an image."""
    side = config.num_patches * 2 ** (len(config.channel_multiplier) - 1)
    return side, side


ARCHITECTURES = (
    Architecture(("janus_vqgan",), image_size=_image_size, tiny=Tiny(fields={"base_channels": 32, "num_patches": 4})),
)
