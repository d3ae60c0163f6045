"""Inkling: the patches that its vision encoder takes, and fields of its tiny configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from onnxport.architectures._architecture import Architecture, Tiny, always
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.dummy_inputs import DummyInput, InputContext

if TYPE_CHECKING:
    import torch


def _patches(context: InputContext) -> torch.Tensor:
    """Make patches of some frames, [patches, frames, height, width, channels]."""
    import torch

    config = context.config
    return torch.zeros(
        context.batch, config.temporal_patch_size, config.patch_size, config.patch_size, config.num_channels
    )


class InklingVisionOnnxConfig(DerivedOnnxConfig):
    """Describe an encoder of patches, each of which is a sample."""

    dummy_inputs: ClassVar[Mapping[str, DummyInput]] = {"pixel_values": DummyInput({0: "batch"}, _patches)}


ARCHITECTURES = (
    Architecture(("inkling_vision",), model=always(InklingVisionOnnxConfig), tiny=Tiny(fields={"patch_size": 8})),
)
