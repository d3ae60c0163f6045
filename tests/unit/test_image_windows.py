"""Models with windowed attention return the same for any image size, which is dynamic in the graph."""

import copy
import itertools
from typing import Any

import pytest
import sympy
import torch
from torch.utils._sympy.functions import FloorDiv
from transformers import SwinConfig
from transformers.models.sam2 import modeling_sam2
from transformers.models.swin.modeling_swin import SwinLayer, SwinPatchMerging

from onnxport.architectures._patches import patches_in
from onnxport.patching.scope import patching
from onnxport.tracing.engine_patches import ENGINE_PATCHES

DIVISIONS = tuple(patch for patch in ENGINE_PATCHES if patch.target.endswith(":FloorDiv.eval"))
SWIN = tuple(patch for patch in patches_in("swin") if ".swin." in patch.target)


@pytest.mark.parametrize("partition", [False, True])
@pytest.mark.parametrize("size", [(2, 2), (2, 6), (4, 6), (5, 7)], ids=str)
def test_a_layer_shifts_windows_depending_on_the_image_size(size: tuple[int, int], partition: bool) -> None:
    torch.manual_seed(0)
    config = SwinConfig(window_size=2, attn_implementation="eager")
    fresh: Any = SwinLayer(config, 8, size, num_heads=2, shift_size=1).eval()
    torch.nn.init.normal_(fresh.attention.relative_position_bias.relative_position_bias_table)
    states = torch.randn(3, size[0] * size[1], 8)
    expected = copy.deepcopy(fresh)(states, size, partition)[0]
    with patching(*SWIN):
        found = fresh(states, size, partition)[0]
    torch.testing.assert_close(found, expected)
    assert fresh.shift_size == 1


@pytest.mark.parametrize("size", [(2, 4), (3, 4), (5, 3)], ids=str)
def test_pairs_of_rows_and_columns_are_merged(size: tuple[int, int]) -> None:
    merging = SwinPatchMerging(4)
    states = torch.randn(2, size[0] * size[1], 4)
    expected = merging(states, size)
    with patching(*SWIN):
        torch.testing.assert_close(merging(states, size), expected)


@pytest.mark.parametrize("size", [(4, 4), (4, 8), (5, 7)], ids=str)
def test_an_image_is_partitioned_into_windows_and_merged_again(size: tuple[int, int]) -> None:
    image = torch.randn(2, *size, 3)
    windows, padded = modeling_sam2.window_partition(image, 4)
    with patching(*patches_in("sam2")):
        found, whole = modeling_sam2.window_partition(image, 4)
        again = modeling_sam2.window_unpartition(found, 4, whole, size)
    torch.testing.assert_close(found, windows)
    assert whole == padded
    torch.testing.assert_close(again, image)


def test_repeated_divisions_of_sizes_are_simplified() -> None:
    size = sympy.Symbol("size", integer=True, positive=True)
    for add, divisor, before in itertools.product((-1, 1, 5), (2, 3), (0, 3)):
        with patching(*DIVISIONS):
            nested = FloorDiv(FloorDiv(size + before, 4) + add, divisor)
        assert len(nested.atoms(FloorDiv)) == 1
        for number in range(1, 30):
            assert nested.subs(size, number) == ((number + before) // 4 + add) // divisor


def test_sizes_are_divided_by_the_smallest_divisor() -> None:
    size, other = sympy.symbols("size other", integer=True, positive=True)
    with patching(*DIVISIONS):
        assert FloorDiv(2 * size + 13, 14) == FloorDiv(size + 6, 7)
        assert FloorDiv(6 * size - 4 * other - 3, 8) == FloorDiv(3 * size - 2 * other - 2, 4)
        assert FloorDiv(size + 13, 14).args[1] == 14


def test_equal_sizes_are_equal_expressions() -> None:
    size, other = sympy.symbols("size other", integer=True, positive=True)
    with patching(*DIVISIONS):
        assert FloorDiv(size + 3, 4) - FloorDiv(size - 1, 4) == 1
        assert FloorDiv(6 * (size + 1) * (other + 2), 4 * (other + 2)) == FloorDiv(6 * (size + 1), 4)
        assert FloorDiv(2 * size * other * (size + 1), size * (size + 1)) == 2 * other
        assert FloorDiv(2 * size * (other + 1), size * (other + 1)) == 2
        assert FloorDiv(size * other, 2 * other + 2).args == (size * other, 2 * other + 2)
        for number in range(1, 30):
            assert FloorDiv(size - 9, 4).subs(size, number) == (number - 9) // 4
