"""Quantize a matrix column by column, so that later columns compensate for the errors of those before (GPTQ).

The error of a layer's output is `trace(E H E^T)`, for the error `E` of its matrix and the second moments `H` of its
inputs. After a column is rounded, the update of all later columns that minimizes it follows from the inverse of `H`
(Frantar et al., 2023, arXiv:2210.17323). The columns of a block are rounded with one scale, which is chosen when the
block is reached, from its columns as they are then.
"""

from __future__ import annotations

import numpy as np

from onnxport.weights.expressions import Array
from onnxport.weights.quantization import BlockScheme, Part, levels_of

_DAMPING = 0.01
"""Part of the mean of the moments' diagonal that is added to it: the value of the paper."""


def compensated(
    matrix: Array, moments: Array, scheme: BlockScheme, scale_dtype: np.dtype[np.generic]
) -> dict[Part, Array]:
    """Quantize a matrix for inputs with known second moments.

    Args:
        matrix: float32 `[rows, columns]`.
        moments: mean of the products of two inputs, float64 `[columns, columns]`.
        scheme: blocks, bits and zero points.
        scale_dtype: the type that scales are rounded to, before values are computed with them.

    Returns:
        The parts, as of `BlockScheme.quantize`.
    """
    rows, columns = matrix.shape
    size, blocks = scheme.block_size, scheme.blocks(columns)
    padding = blocks * size - columns
    left = np.pad(matrix, ((0, 0), (0, padding))).astype(np.float32)
    importance = np.pad(np.diag(moments), (0, padding)).astype(np.float32)
    factor = np.pad(_factor(moments), ((0, padding), (0, padding)))
    factor[range(columns, columns + padding), range(columns, columns + padding)] = 1
    levels = np.empty((size, rows, blocks), np.float32)
    scales, zeros = np.empty((rows, blocks), scale_dtype), np.empty((rows, blocks), np.float32)
    for block in range(blocks):
        start, stop = block * size, (block + 1) * size
        elements = np.ascontiguousarray(left[:, start:stop])
        found, points = scheme.scales_of(np.ascontiguousarray(elements.T), np.tile(importance[start:stop, None], rows))
        scales[:, block], zeros[:, block] = found, points
        steps = scales[:, block].astype(np.float32)
        errors = np.empty_like(elements)
        for column in range(size):
            part = factor[start + column, start + column : stop]
            level = levels_of(elements[:, column], steps, points, scheme.bits)
            levels[column, :, block] = level
            rounded = (level - points) * steps
            errors[:, column] = (elements[:, column] - rounded) / part[0]
            elements[:, column:] -= np.outer(errors[:, column], part)
        left[:, stop:] -= errors @ factor[start:stop, stop:]
    return scheme.packed(levels.reshape(size, -1), scales, zeros)


def _factor(moments: Array) -> Array:
    """Return the upper Cholesky factor of the inverse of damped moments, float32 `[columns, columns]`."""
    damped = moments.astype(np.float64)
    diagonal = np.diag(damped).copy()
    np.fill_diagonal(damped, np.where(diagonal > 0, diagonal, 1) + _DAMPING * (diagonal.mean() or 1))
    inverse = np.linalg.inv(damped)
    upper: Array = np.linalg.cholesky((inverse + inverse.T) / 2).T
    return upper.astype(np.float32)
