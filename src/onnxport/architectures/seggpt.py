"""SegGPT: an image and its prompt are halves of what the model takes as one image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture, Tiny

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def _image_size(config: PreTrainedConfig) -> tuple[int, int]:
    height, width = config.image_size
    return height // 2, width


_FIELDS = {"merge_index": 1, "intermediate_hidden_state_indices": [1, 2, 3]}
"""Layers of a tiny model, which has four."""

ARCHITECTURES = (Architecture(("seggpt",), image_size=_image_size, tiny=Tiny(image_size=(32, 32), fields=_FIELDS)),)
