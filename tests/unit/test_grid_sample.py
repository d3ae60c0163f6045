"""Originals in 16 bits sample grids as their graphs do."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import grid_sample

from onnxport.tracing.comparable import ComparableFunctions


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_large_map_of_deformable_attention_is_sampled(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(1, 100 * 134, 4, 8, generator=generator).to(dtype)
    image = values.flatten(2).transpose(1, 2).reshape(4, 8, 100, 134)
    grid = (torch.rand(4, 50, 4, 2, generator=generator) * 2 - 1).to(dtype)
    expected = grid_sample(image.float(), grid.float(), mode="bilinear", align_corners=False)
    with ComparableFunctions():
        by_position = grid_sample(image, grid, "bilinear", align_corners=False)
        by_name = grid_sample(input=image, grid=grid, mode="bilinear", align_corners=False)
    for found in (by_position, by_name):
        assert found.dtype == dtype
        torch.testing.assert_close(found, expected.to(dtype))


def test_float32_is_as_before() -> None:
    image, grid = torch.rand(1, 2, 5, 5), torch.rand(1, 3, 3, 2)
    with ComparableFunctions():
        found = grid_sample(image, grid, align_corners=True)
    assert torch.equal(found, grid_sample(image, grid, align_corners=True))
