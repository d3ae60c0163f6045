"""Expressions that compute, in float32: what an adapter adds to a weight, and what a quantized weight stands for.

Results are made some rows at a time, where what they are made of is stored in that order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxport.weights.casting import cast_into, copy_into
from onnxport.weights.expressions import PIECE, Array, Cast, Expression, Reads, Reshape, Shape, Slice


class _Rows(Expression):
    """A float32 matrix that is made some rows at a time."""

    @property
    def dtype(self) -> ir.DataType:
        """Float32: whoever wants another type casts it, once."""
        return ir.DataType.FLOAT

    def row_blocks(self, reader: Reads) -> Iterator[Array]:
        """Yield its rows in order, some at a time, as arrays that hold until the next one is asked for."""
        raise NotImplementedError

    def fill(self, out: Array, reader: Reads) -> None:
        """Write its values into an array."""
        start = 0
        for block in self.row_blocks(reader):
            copy_into(block, out[start : start + len(block)])
            start += len(block)

    def pieces(self, reader: Reads) -> Iterator[Array]:
        """Yield its values in order."""
        for block in self.row_blocks(reader):
            yield block.reshape(-1)

    def strips(self, reader: Reads) -> Iterator[Array]:
        """Yield its rows, some at a time."""
        return self.row_blocks(reader)


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

    def row_blocks(self, reader: Reads) -> Iterator[Array]:
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

    def row_blocks(self, reader: Reads) -> Iterator[Array]:
        """Yield its rows in order, some at a time."""
        lengths = _as_float32(self.lengths.evaluate(reader))
        start = 0
        for block in _row_blocks(self.of, reader):
            wanted = lengths[start : start + len(block)]
            yield block * (wanted / np.linalg.norm(block, axis=1))[:, None]
            start += len(block)


@dataclass(frozen=True)
class Product(Expression):
    """Two float32 tensors multiplied element by element; the second is repeated where it has size 1.

    Attributes:
        of: a tensor.
        by: one of as many axes, each of the same size or 1.
    """

    of: Expression
    by: Expression

    @property
    def dtype(self) -> ir.DataType:
        """Float32."""
        return ir.DataType.FLOAT

    @property
    def shape(self) -> Shape:
        """Its sizes."""
        return self.of.shape

    @property
    def children(self) -> tuple[Expression, ...]:
        """What it is made of."""
        return (self.of, self.by)

    def fill(self, out: Array, reader: Reads) -> None:
        """Write its values into an array."""
        start, axis = 0, self._axis
        for block in self._blocks(reader):
            stop = start + block.shape[axis]
            copy_into(block, out[(slice(None),) * axis + (slice(start, stop),)])
            start = stop

    def pieces(self, reader: Reads) -> Iterator[Array]:
        """Yield its values in order."""
        for block in self._blocks(reader):
            yield block.reshape(-1)

    @property
    def _axis(self) -> int:
        """The first axis that isn't of size 1: a part of it is one range of what is stored."""
        return next((axis for axis, size in enumerate(self.shape) if size != 1), 0)

    def _blocks(self, reader: Reads) -> Iterator[Array]:
        if not self.size or not self.shape:
            yield np.multiply(self.of.evaluate(reader), self.by.evaluate(reader))
            return
        by, axis = self.by.evaluate(reader), self._axis
        size = self.shape[axis]
        step = max(1, PIECE * size // self.size)
        for start in range(0, size, step):
            stop = min(size, start + step)
            part = _cut(self.of, axis, start, stop).evaluate(reader)
            factor = by[(slice(None),) * axis + (slice(start, stop),)] if by.shape[axis] == size else by
            yield np.multiply(part, factor)


@dataclass(frozen=True)
class Mxfp4(_Rows):
    """Numbers of 4 bits, two in a byte, with a common exponent for each block of 32.

    That is MXFP4 of the OCP Microscaling Formats specification 1.0 (2023), section 5.2: elements E2M1, scales E8M0. The
    element in a byte's lower half comes first.

    Attributes:
        blocks: bytes `[..., groups, bytes of a block]`, uint8.
        scales: exponents `[..., groups]` plus 127, uint8.
    """

    blocks: Expression
    scales: Expression

    @property
    def shape(self) -> Shape:
        """Its sizes: one axis less than the blocks, and twice as many elements as bytes."""
        *outer, groups, width = self.blocks.shape
        return (*outer, groups * width * 2)

    @property
    def children(self) -> tuple[Expression, ...]:
        """What it is made of."""
        return (self.blocks, self.scales)

    def fill(self, out: Array, reader: Reads) -> None:
        """Write its values into an array."""
        if not out.flags.c_contiguous:
            copy_into(self.evaluate(reader), out)
            return
        super().fill(out.reshape(-1, self.shape[-1]), reader)

    def _rows_of(self, reader: Reads, start: int, stop: int) -> Array:
        """Return some rows, counted over all outer axes."""
        *_, groups, width = self.blocks.shape
        packed = Slice(_flat(self.blocks, groups * width), 0, start, stop).evaluate(reader)
        exponents = Slice(_flat(self.scales, groups), 0, start, stop).evaluate(reader).astype(np.int32) - 127
        out = np.empty((stop - start, groups, width * 2), np.float32)
        packed = packed.reshape(stop - start, groups, width)
        np.take(_E2M1, packed & 0x0F, out=out[:, :, 0::2], mode="clip")
        np.take(_E2M1, packed >> 4, out=out[:, :, 1::2], mode="clip")
        return np.ldexp(out, exponents[:, :, None], out=out).reshape(stop - start, -1)

    def row_blocks(self, reader: Reads) -> Iterator[Array]:
        """Yield its rows in order, some at a time."""
        columns = self.shape[-1]
        rows = self.size // max(1, columns)
        step = max(1, PIECE // max(1, columns))
        for start in range(0, rows, step):
            yield self._rows_of(reader, start, min(rows, start + step))


_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
"""What the 16 codes of a number with two bits of exponent and one of mantissa stand for."""


def _flat(of: Expression, columns: int) -> Expression:
    return Reshape(of, (of.size // max(1, columns), columns))


def _cut(of: Expression, axis: int, start: int, stop: int) -> Expression:
    """Return a part of an axis; less is cast, and less is read."""
    if isinstance(of, Cast):
        return Cast(_cut(of.of, axis, start, stop), of.to)
    return Slice(of, axis, start, stop)


def _row_blocks(of: Expression, reader: Reads) -> Iterator[Array]:
    """Yield the rows of a matrix, as many at a time as are read at once; nobody may write to them."""
    if isinstance(of, _Rows):
        yield from of.row_blocks(reader)
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
