"""Molmo 2: the inputs of its adapter, which pools patches, and fields of its tiny configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from onnxport.architectures._architecture import Architecture, Tiny, always
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.dummy_inputs import DummyInput, InputContext

if TYPE_CHECKING:
    import torch

_PATCHES, _POOLED = 9, 4
"""Patches of a dummy crop, and patches that a token pools."""


def _features(context: InputContext) -> torch.Tensor:
    """Make the hidden states of some layers, concatenated, [crops, patches, hidden_size * layers]."""
    import torch

    config = context.config
    return torch.zeros(context.batch, _PATCHES, config.hidden_size * len(config.vision_feature_layer))


def _indices(context: InputContext) -> torch.Tensor:
    """Make indices of patches, [tokens, patches of each]; -1 pads those of the last token."""
    import torch

    indices = torch.arange(context.batch * _PATCHES // _POOLED * _POOLED).reshape(-1, _POOLED)
    indices[-1, 2:] = -1
    return indices


class AdapterOnnxConfig(DerivedOnnxConfig):
    """Describe an adapter between a vision encoder and a decoder."""

    dummy_inputs: ClassVar[Mapping[str, DummyInput]] = {
        "image_features": DummyInput({0: "num_crops", 1: "num_patches"}, _features),
        "pooled_patches_idx": DummyInput({0: "num_tokens"}, _indices),
    }


ARCHITECTURES = (
    Architecture(
        ("molmo2_adapter",), model=always(AdapterOnnxConfig), tiny=Tiny(fields={"vision_feature_layer": [3, 2]})
    ),
)
