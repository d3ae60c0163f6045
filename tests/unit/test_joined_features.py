"""Features that are split by image and concatenated again stay in one tensor while a graph is captured."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch.export import Dim

from onnxport.description.joined_features import keeping_features_joined


class Encoder(torch.nn.Module):
    def __init__(self, context: AbstractContextManager[None]) -> None:
        super().__init__()
        self.context = context

    def forward(self, features: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        with self.context:
            return torch.cat(list(torch.split(features, counts.tolist()))) * 2


def for_three_images(context: AbstractContextManager[None]) -> torch.Tensor:
    """Capture the encoder for two images, and run it for three."""
    inputs = (torch.ones(6, 3), torch.tensor([2, 4]))
    exported = torch.export.export(Encoder(context), inputs, dynamic_shapes=({0: Dim.AUTO}, {0: Dim.AUTO}))
    result: torch.Tensor = exported.module()(torch.ones(9, 3), torch.tensor([2, 4, 3]))
    return result


def test_the_number_of_images_stays_dynamic() -> None:
    assert for_three_images(keeping_features_joined()).tolist() == [[2.0] * 3] * 9


def test_it_is_fixed_otherwise() -> None:
    with pytest.raises((AssertionError, RuntimeError)):
        for_three_images(nullcontext())


@pytest.mark.parametrize("use", [list, len, lambda values: values[1], sum])
def test_sizes_can_be_read(use: object) -> None:
    counts = torch.tensor([2, 4])
    expected = use(counts.tolist())  # type: ignore[operator]
    with keeping_features_joined():
        assert use(counts.tolist()) == expected  # type: ignore[operator]
