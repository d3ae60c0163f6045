"""Hiera: the noise that chooses the masked units of an image, and its tiny configuration, which needs a decoder."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from onnxport.architectures._architecture import Architecture, Tiny, of_class
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.dummy_inputs import DummyInput, InputContext

if TYPE_CHECKING:
    import torch


def _noise(context: InputContext) -> torch.Tensor:
    import torch

    config = context.config
    sides = zip(config.image_size, config.patch_stride, config.masked_unit_size, strict=True)
    units = math.prod(size // stride // unit for size, stride, unit in sides)
    return torch.rand(context.batch, units, generator=torch.Generator().manual_seed(0))


class HieraPreTrainingOnnxConfig(DerivedOnnxConfig):
    """Describe the masked autoencoder, which masks the units with the largest noise."""

    dummy_inputs: ClassVar = {"noise": DummyInput({0: "batch"}, _noise)}


ARCHITECTURES = (
    Architecture(
        ("hiera",),
        model=of_class("HieraForPreTraining", HieraPreTrainingOnnxConfig),
        tiny=Tiny(fields={"decoder_hidden_size": 32, "decoder_depth": 1, "decoder_num_heads": 4}),
    ),
)
