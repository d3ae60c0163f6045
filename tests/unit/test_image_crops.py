"""Features of images and of their crops, in the order in which Transformers concatenates them image by image."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from onnxport.architectures._image_crops import ImageCropsEncoderOnnxConfig, RowsOfCropsEncoderOnnxConfig

COUNTS = {"some": [2, 0, 3], "none": [0, 0, 0]}
GRIDS = [(2, 1), (1, 1), (1, 3)]
"""Columns and rows of crops of each image."""
SEPARATOR, NEWLINE = torch.full((5,), -1.0), torch.full((5,), -2.0)


def features(count: int, tokens: int) -> torch.Tensor:
    return torch.arange(count * tokens * 5.0).reshape(count, tokens, 5)


def joined(config_class: type[ImageCropsEncoderOnnxConfig], model: Any, counts: list[int]) -> torch.Tensor:
    config = object.__new__(config_class)
    arguments = {"num_local_patches": torch.tensor(counts), "patches_grid": torch.tensor(GRIDS)}
    return config.joined(model, features(3, 9), features(sum(counts), 4) + 1000, arguments)


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
@pytest.mark.parametrize("has_separator", [True, False])
def test_the_crops_of_an_image_precede_it(counts: list[int], has_separator: bool) -> None:
    model = SimpleNamespace(**({"view_separator": SEPARATOR} if has_separator else {}))
    parts = []
    for image, crops in zip(features(3, 9), (features(sum(counts), 4) + 1000).split(counts), strict=True):
        parts += [crops.flatten(0, 1), image, *([SEPARATOR[None]] if has_separator else [])]
    assert torch.equal(joined(ImageCropsEncoderOnnxConfig, model, counts), torch.cat(parts))


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
def test_each_row_of_features_ends_with_a_newline(counts: list[int]) -> None:
    model = SimpleNamespace(view_separator=SEPARATOR, image_newline=NEWLINE)
    parts = []
    crops = (features(sum(counts), 4) + 1000).split(counts)
    for image, own, (columns, rows) in zip(features(3, 9), crops, GRIDS, strict=True):
        if len(own):
            grid = own.reshape(rows, columns, 2, 2, 5).transpose(1, 2).reshape(rows * 2, columns * 2, 5)
            parts.append(torch.cat([grid, NEWLINE.expand(rows * 2, 1, 5)], dim=1).flatten(0, 1))
        whole = torch.cat([image.reshape(3, 3, 5), NEWLINE.expand(3, 1, 5)], dim=1)
        parts += [whole.flatten(0, 1), SEPARATOR[None]]
    assert torch.equal(joined(RowsOfCropsEncoderOnnxConfig, model, counts), torch.cat(parts))
