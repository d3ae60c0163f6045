"""Expressions for weights that an adapter changes: a product of two small matrices is added, rows get a new length.

A product is never in memory whole: rows are made some at a time, in float32, whatever the type of what it is made of.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxport.weights.casting import cast_into, copy_into
from onnxport.weights.expressions import PIECE, Array, Expression, Reads, Shape, Slice


class _Rows(Expression):
    """A float32 matrix that is made some rows at a time."""

    @property
    def dtype(self) -> ir.DataType:
        """Float32: whoever wants another type casts it, once."""
        return ir.DataType.FLOAT

    def blocks(self, reader: Reads) -> Iterator[Array]:
        """Yield its rows in order, some at a time, as arrays that hold until the next one is asked for."""
        raise NotImplementedError

    def fill(self, out: Array, reader: Reads) -> None:
        """Write its values into an array."""
        start = 0
        for block in self.blocks(reader):
            copy_into(block, out[start : start + len(block)])
            start += len(block)

    def pieces(self, reader: Reads) -> Iterator[Array]:
        """Yield its values in order."""
        for block in self.blocks(reader):
            yield block.reshape(-1)

    def strips(self, reader: Reads) -> Iterator[Array]:
        """Yield its rows, some at a time."""
        return self.blocks(reader)


@dataclass(frozen=True)
class LowRank(_Rows):
    """`of + scale * up @ down`, in float32: LoRA's merge (Hu et al., 2021, arXiv:2106.09685, section 4.1).

    Attributes:
        of: a matrix `[rows, columns]` of any floating-point type.
        up: matrix `[rows, rank]`.
        down: matrix `[rank, columns]`.
        scale: what the product is multiplied by.
    """

    of: Expression
    up: Expression
    down: Expression
    scale: float

    @property
    def shape(self) -> Shape:
        """Its sizes."""
        return self.of.shape

    @property
    def children(self) -> tuple[Expression, ...]:
        """What it is made of."""
        return (self.of, self.up, self.down)

    def blocks(self, reader: Reads) -> Iterator[Array]:
        """Yield its rows in order, some at a time."""
        up = _as_float32(self.up.evaluate(reader)) * np.float32(self.scale)
        down = _as_float32(self.down.evaluate(reader))
        start = 0
        for base in _row_blocks(self.of, reader):
            out = np.empty(base.shape, np.float32)
            cast_into(base, out)
            out += up[start : start + len(base)] @ down
            start += len(base)
            yield out


@dataclass(frozen=True)
class Rescaled(_Rows):
    """A float32 matrix whose rows have given lengths: DoRA's merge (Liu et al., 2024, arXiv:2402.09353, equation 5).

    Attributes:
        of: a float32 matrix `[rows, columns]`.
        lengths: vector `[rows]` of any floating-point type.
    """

    of: Expression
    lengths: Expression

    @property
    def shape(self) -> Shape:
        """Its sizes."""
        return self.of.shape

    @property
    def children(self) -> tuple[Expression, ...]:
        """What it is made of."""
        return (self.of, self.lengths)

    def blocks(self, reader: Reads) -> Iterator[Array]:
        """Yield its rows in order, some at a time."""
        lengths = _as_float32(self.lengths.evaluate(reader))
        start = 0
        for block in _row_blocks(self.of, reader):
            wanted = lengths[start : start + len(block)]
            yield block * (wanted / np.linalg.norm(block, axis=1))[:, None]
            start += len(block)


def _row_blocks(of: Expression, reader: Reads) -> Iterator[Array]:
    """Yield the rows of a matrix, as many at a time as are read at once; nobody may write to them."""
    if isinstance(of, _Rows):
        yield from of.blocks(reader)
        return
    rows, columns = of.shape
    step = max(1, PIECE // max(1, columns))
    whole = None if of.contiguous is not None else of.evaluate(reader)
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        yield Slice(of, 0, start, stop).evaluate(reader) if whole is None else whole[start:stop]


def _as_float32(array: Array) -> Array:
    out = np.empty(array.shape, np.float32)
    cast_into(array, out)
    return out
