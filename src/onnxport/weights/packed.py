"""Expressions of integers that checkpoints pack into others, and of the values that they stand for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxport.weights.arithmetic import as_float32
from onnxport.weights.expressions import Array, Expression, Reads, Shape


@dataclass(frozen=True)
class Unpacked(Expression):
    """Unsigned integers of a few bits that are packed into larger ones, the first in the lowest bits.

    Attributes:
        operand: integers, of 8 or 32 bits each.
        bits: bits of an unpacked integer, 2, 4 or 8.
        axis: the axis along which they are packed.
        order: index of each unpacked integer among those of a packed one; empty for their order.
    """

    operand: Expression
    bits: int
    axis: int
    order: tuple[int, ...] = ()

    @property
    def dtype(self) -> ir.DataType:
        """One byte for each integer."""
        return ir.DataType.UINT8

    @property
    def shape(self) -> Shape:
        """The shape."""
        sizes = list(self.operand.shape)
        sizes[self.axis] *= self._count
        return tuple(sizes)

    @property
    def children(self) -> tuple[Expression, ...]:
        """The operands."""
        return (self.operand,)

    @property
    def _count(self) -> int:
        return int(self.operand.dtype.itemsize * 8) // self.bits

    def evaluate(self, reader: Reads) -> Array:
        """Return the integers."""
        packed = np.moveaxis(self.operand.evaluate(reader), self.axis, -1)
        unsigned = np.ascontiguousarray(packed).view(f"u{packed.dtype.itemsize}")
        mask = unsigned.dtype.type((1 << self.bits) - 1)
        out = np.empty((*unsigned.shape, self._count), np.uint8)
        for index in range(self._count):
            position = self.order[index] if self.order else index
            out[..., position] = (unsigned >> unsigned.dtype.type(index * self.bits)) & mask
        return np.moveaxis(out.reshape(*unsigned.shape[:-1], -1), -1, self.axis)


@dataclass(frozen=True)
class Affine(Expression):
    """`(q - zero) * scale` in float32, where rows of `q` are grouped, and groups have scales and zeros of their own.

    Attributes:
        operand: integers `[rows, columns]`.
        scales: `[groups, columns]`, or `[groups, 1]`.
        zeros: integers `[groups, columns]`, or `[groups, 1]`; None for 0.
        offset: what is subtracted, too.
        groups: index of each row's group, `[rows]`; None for groups of consecutive rows.
        divisor: what scales are divided by.
    """

    operand: Expression
    scales: Expression
    zeros: Expression | None = None
    offset: int = 0
    groups: Expression | None = None
    divisor: int = 1

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
        return (self.operand, self.scales, *(item for item in (self.zeros, self.groups) if item is not None))

    def evaluate(self, reader: Reads) -> Array:
        """Return the values."""
        rows, count = self.shape[0], self.scales.shape[0]
        group = -(-rows // count)
        index = np.arange(rows) // group if self.groups is None else self.groups.evaluate(reader)
        out = self.operand.evaluate(reader).astype(np.float32)
        if self.zeros is not None:
            out -= self.zeros.evaluate(reader).astype(np.float32)[index]
        out -= np.float32(self.offset)
        out *= (as_float32(self.scales.evaluate(reader)) / np.float32(self.divisor))[index]
        return out


@dataclass(frozen=True)
class Codebook(Expression):
    """`codes[q] * scale` in float32, where consecutive elements of the flattened tensor share a scale: NF4 and FP4.

    Source: QLoRA (Dettmers et al., 2023, arXiv:2305.14314, section 3).

    Attributes:
        operand: indices of codes, one for each element, in row-major order.
        codes: values `[codes]`.
        scales: scale of each block, float32 `[blocks]`.
        sizes: the shape.
        offset: what is added to each value.
    """

    operand: Expression
    codes: Expression
    scales: Expression
    sizes: Shape
    offset: float = 0.0

    @property
    def dtype(self) -> ir.DataType:
        """Float32."""
        return ir.DataType.FLOAT

    @property
    def shape(self) -> Shape:
        """The shape."""
        return self.sizes

    @property
    def children(self) -> tuple[Expression, ...]:
        """The operands."""
        return (self.operand, self.codes, self.scales)

    def evaluate(self, reader: Reads) -> Array:
        """Return the values."""
        values = as_float32(self.codes.evaluate(reader))[self.operand.evaluate(reader).reshape(-1)[: self.size]]
        scales = as_float32(self.scales.evaluate(reader)).reshape(-1)
        block = -(-self.size // len(scales))
        values *= np.repeat(scales, block)[: self.size]
        values += np.float32(self.offset)
        return values.reshape(self.sizes)
