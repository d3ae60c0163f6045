"""Expressions with arithmetic, in float32: merged LoRA updates and dequantized weights.

Results are computed in blocks of rows if the operands are stored in row-major order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxport.weights.casting import cast_into, copy_into
from onnxport.weights.expressions import CHUNK, Array, Cast, Expression, Reads, Reshape, Shape, Slice


class _Rows(Expression):
    """A float32 matrix that is computed in blocks of rows."""

    @property
    def dtype(self) -> ir.DataType:
        """Always float32."""
        return ir.DataType.FLOAT

    def row_blocks(self, reader: Reads) -> Iterator[Array]:
        """Yield the rows in order, in blocks that are valid until the next is requested."""
        raise NotImplementedError

    def fill(self, out: Array, reader: Reads) -> None:
        """Write the values into an array."""
        start = 0
        for block in self.row_blocks(reader):
            copy_into(block, out[start : start + len(block)])
            start += len(block)

    def chunks(self, reader: Reads) -> Iterator[Array]:
        """Yield the values in row-major order."""
        for block in self.row_blocks(reader):
            yield block.reshape(-1)

    def strips(self, reader: Reads) -> Iterator[Array]:
        """Yield the rows in blocks."""
        return self.row_blocks(reader)


@dataclass(frozen=True)
class LowRank(_Rows):
    """`operand + scale * up @ down`, in float32: a merged LoRA (Hu et al., 2021, arXiv:2106.09685, section 4.1).

    Attributes:
        operand: matrix `[rows, columns]` of any floating-point type.
        up: matrix `[rows, rank]`.
        down: matrix `[rank, columns]`.
        scale: factor of the product.
    """

    operand: Expression
    up: Expression
    down: Expression
    scale: float

    @property
    def shape(self) -> Shape:
        """The shape."""
        return self.operand.shape

    @property
    def children(self) -> tuple[Expression, ...]:
        """The operands."""
        return (self.operand, self.up, self.down)

    def row_blocks(self, reader: Reads) -> Iterator[Array]:
        """Yield the rows in order, in blocks."""
        up = as_float32(self.up.evaluate(reader)) * np.float32(self.scale)
        down = as_float32(self.down.evaluate(reader))
        start = 0
        for base in row_blocks(self.operand, reader):
            out = np.empty(base.shape, np.float32)
            cast_into(base, out)
            out += up[start : start + len(base)] @ down
            start += len(base)
            yield out


@dataclass(frozen=True)
class Rescaled(_Rows):
    """A float32 matrix with rows rescaled to the given norms: DoRA (Liu et al., 2024, arXiv:2402.09353, equation 5).

    Attributes:
        operand: float32 matrix `[rows, columns]`.
        norms: L2 norm of each row, vector `[rows]` of any floating-point type.
    """

    operand: Expression
    norms: Expression

    @property
    def shape(self) -> Shape:
        """The shape."""
        return self.operand.shape

    @property
    def children(self) -> tuple[Expression, ...]:
        """The operands."""
        return (self.operand, self.norms)

    def row_blocks(self, reader: Reads) -> Iterator[Array]:
        """Yield the rows in order, in blocks."""
        norms = as_float32(self.norms.evaluate(reader))
        start = 0
        for block in row_blocks(self.operand, reader):
            target_norms = norms[start : start + len(block)]
            yield block * (target_norms / np.linalg.norm(block, axis=1))[:, None]
            start += len(block)


@dataclass(frozen=True)
class Product(Expression):
    """The element-wise product of two float32 tensors, the second broadcast to the first.

    Attributes:
        operand: a tensor.
        factor: a tensor of the same rank, each axis of the same size or 1.
    """

    operand: Expression
    factor: Expression

    @property
    def dtype(self) -> ir.DataType:
        """Float32."""
        return ir.DataType.FLOAT

    @property
    def shape(self) -> Shape:
        """The shape."""
        return self.operand.shape

    @property
    def children(self) -> tuple[Expression, ...]:
        """The operands."""
        return (self.operand, self.factor)

    def fill(self, out: Array, reader: Reads) -> None:
        """Write the values into an array."""
        start, axis = 0, self._axis
        for block in self._blocks(reader):
            stop = start + block.shape[axis]
            copy_into(block, out[(slice(None),) * axis + (slice(start, stop),)])
            start = stop

    def chunks(self, reader: Reads) -> Iterator[Array]:
        """Yield the values in row-major order."""
        for block in self._blocks(reader):
            yield block.reshape(-1)

    @property
    def _axis(self) -> int:
        """The first axis of a size other than 1, whose slices are contiguous in row-major order."""
        return next((axis for axis, size in enumerate(self.shape) if size != 1), 0)

    def _blocks(self, reader: Reads) -> Iterator[Array]:
        if not self.size or not self.shape:
            yield np.multiply(self.operand.evaluate(reader), self.factor.evaluate(reader))
            return
        factor, axis = self.factor.evaluate(reader), self._axis
        size = self.shape[axis]
        step = max(1, CHUNK * size // self.size)
        for start in range(0, size, step):
            stop = min(size, start + step)
            block = _cut(self.operand, axis, start, stop).evaluate(reader)
            is_broadcast = factor.shape[axis] != size
            yield np.multiply(block, factor if is_broadcast else factor[(slice(None),) * axis + (slice(start, stop),)])


@dataclass(frozen=True)
class Mxfp4(_Rows):
    """A dequantized MXFP4 tensor: 4-bit elements, two in a byte, with one shared exponent per block of 32.

    MXFP4 is defined in the OCP Microscaling Formats specification 1.0 (2023), section 5.2: elements E2M1, scales E8M0.
    The element in the lower four bits of a byte comes first.

    Attributes:
        blocks: packed elements, uint8 `[..., blocks, bytes per block]`.
        scales: exponents with a bias of 127, uint8 `[..., blocks]`.
    """

    blocks: Expression
    scales: Expression

    @property
    def shape(self) -> Shape:
        """The shape: one axis less than `blocks`, and two elements for each byte."""
        *outer, groups, width = self.blocks.shape
        return (*outer, groups * width * 2)

    @property
    def children(self) -> tuple[Expression, ...]:
        """The operands."""
        return (self.blocks, self.scales)

    def fill(self, out: Array, reader: Reads) -> None:
        """Write the values into an array."""
        if not out.flags.c_contiguous:
            copy_into(self.evaluate(reader), out)
            return
        super().fill(out.reshape(-1, self.shape[-1]), reader)

    def _rows_of(self, reader: Reads, start: int, stop: int) -> Array:
        """Return rows `start` to `stop` of the tensor flattened to a matrix."""
        *_, groups, width = self.blocks.shape
        packed = Slice(_flat(self.blocks, groups * width), 0, start, stop).evaluate(reader)
        exponents = Slice(_flat(self.scales, groups), 0, start, stop).evaluate(reader).astype(np.int32) - 127
        out = np.empty((stop - start, groups, width * 2), np.float32)
        packed = packed.reshape(stop - start, groups, width)
        np.take(_E2M1, packed & 0x0F, out=out[:, :, 0::2], mode="clip")
        np.take(_E2M1, packed >> 4, out=out[:, :, 1::2], mode="clip")
        return np.ldexp(out, exponents[:, :, None], out=out).reshape(stop - start, -1)

    def row_blocks(self, reader: Reads) -> Iterator[Array]:
        """Yield the rows in order, in blocks."""
        columns = self.shape[-1]
        rows = self.size // max(1, columns)
        step = max(1, CHUNK // max(1, columns))
        for start in range(0, rows, step):
            yield self._rows_of(reader, start, min(rows, start + step))


_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
"""Values of the 16 codes of E2M1 (one sign, two exponent and one mantissa bits)."""


def _flat(operand: Expression, columns: int) -> Expression:
    return Reshape(operand, (operand.size // max(1, columns), columns))


def _cut(operand: Expression, axis: int, start: int, stop: int) -> Expression:
    """Slice an axis, below a cast, so that fewer elements are cast and read."""
    if isinstance(operand, Cast):
        return Cast(_cut(operand.operand, axis, start, stop), operand.to)
    return Slice(operand, axis, start, stop)


def row_blocks(operand: Expression, reader: Reads) -> Iterator[Array]:
    """Yield the rows of a matrix in blocks, which must not be modified."""
    if isinstance(operand, _Rows):
        yield from operand.row_blocks(reader)
        return
    rows, columns = operand.shape
    step = max(1, CHUNK // max(1, columns))
    matrix = None if operand.contiguous is not None else operand.evaluate(reader)
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        yield Slice(operand, 0, start, stop).evaluate(reader) if matrix is None else matrix[start:stop]


def as_float32(array: Array) -> Array:
    """Return an array cast to float32."""
    out = np.empty(array.shape, np.float32)
    cast_into(array, out)
    return out
