"""Find the grids that dequantized weights lie on: the scale and zero point of which a block's elements are multiples.

A quantized checkpoint is read as the floating-point values that its integers stand for. They are exactly
`(q - zero_point) * scale` for integers `q` of a few bits, whatever the format stored them as (GGUF's Q4_0, Q4_1, Q8_0
and most k-quants, GPTQ, AWQ, compressed-tensors), and in whatever order the loader put the rows. So the integers and
scales are found again, and quantizing is without loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from onnxport.weights.expressions import Array

ZeroPoints = Literal["none", "integer", "float"]

_TOLERANCE = 2e-3
"""Distance from an integer, in steps of the grid: float32 has 1e-5 for 8 bits, values that were rounded to bfloat16 or
float16 more. A random block of 32 elements is on a given grid of this tolerance with a probability of 10^-77."""
_BLOCK_SIZES = (128, 64, 32, 16)


@dataclass(frozen=True)
class Grids:
    """Hold the grid of each block.

    Attributes:
        scales: float32 `[blocks]`.
        zeros: zero points, float32 `[blocks]`.
        found: whether the block lies on the grid, `[blocks]`.
    """

    scales: Array
    zeros: Array
    found: Array


@dataclass(frozen=True)
class Grid:
    """A grid that all blocks of a matrix lie on.

    Attributes:
        bits: bits of its integers.
        block_size: elements that share a scale.
        zero_points: their type.
    """

    bits: int
    block_size: int
    zero_points: ZeroPoints


def grid_of(matrix: Array) -> Grid | None:
    """Return the grid with the fewest bits and the largest blocks that all rows of a matrix lie on; None without one.

    Args:
        matrix: float32 `[rows, columns]`.
    """
    for bits in (2, 4, 8):
        kinds: tuple[ZeroPoints, ...] = ("none", "integer", "float") if bits == 4 else ("none", "integer")
        for kind in kinds:
            for size in _BLOCK_SIZES:
                if matrix.shape[1] % size == 0 and find_grids(matrix.reshape(-1, size), bits, kind).found.all():
                    return Grid(bits, size, kind)
    return None


def find_grids(elements: Array, bits: int, zero_points: ZeroPoints) -> Grids:
    """Find the grid of each block.

    Args:
        elements: float32 `[blocks, elements]`.
        bits: bits of the integers.
        zero_points: type of the zero points.
    """
    half, most = 1 << (bits - 1), (1 << bits) - 1
    count = len(elements)
    scales, zeros = np.zeros(count, np.float32), np.full(count, half, np.float32)
    found: Array = np.logical_not(elements.any(axis=1))
    left = np.flatnonzero(~found)
    for steps in _steps(bits, zero_points):
        if not len(left):
            break
        blocks = elements[left]
        scale, zero = _candidate(blocks, steps, half, zero_points)
        levels = blocks / scale[:, None] + zero[:, None]
        nearest = np.rint(levels)
        fits = (np.abs(levels - nearest).max(1) < _TOLERANCE) & (nearest.min(1) >= 0) & (nearest.max(1) <= most)
        if zero_points == "integer":
            fits &= np.abs(zero - np.rint(zero)) < _TOLERANCE
        chosen = left[fits]
        scales[chosen], found[chosen] = scale[fits], True
        zeros[chosen] = zero[fits] if zero_points == "float" else np.rint(zero[fits])
        left = left[~fits]
    return Grids(scales, zeros, found)


def _steps(bits: int, zero_points: ZeroPoints) -> Iterator[int]:
    """Yield the steps between 0, or the smallest element, and the largest; the usual ones of quantizers first."""
    half, most = 1 << (bits - 1), (1 << bits) - 1
    if zero_points != "none":
        yield from range(most, 0, -1)
        return
    for steps in range(half, 0, -1):
        yield -steps
        yield steps


def _candidate(blocks: Array, steps: int, half: int, zero_points: ZeroPoints) -> tuple[Array, Array]:
    """Return the scale and the zero point of blocks whose largest element is a number of steps away."""
    if zero_points == "none":
        largest = np.take_along_axis(blocks, np.abs(blocks).argmax(1)[:, None], 1)[:, 0]
        return largest / np.float32(steps), np.full(len(blocks), half, np.float32)
    low, high = blocks.min(1), blocks.max(1)
    if zero_points == "integer":
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    scale = (high - low) / np.float32(steps)
    scale = np.where(scale > 0, scale, np.maximum(np.abs(high), np.finfo(np.float32).tiny))
    return scale, -low / scale
