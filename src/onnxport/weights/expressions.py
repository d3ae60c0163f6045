"""Define expressions: how a parameter is computed from the tensors of a checkpoint, without reading them.

Expressions are immutable values that can be compared, serialized as JSON, and evaluated with a reader of the
checkpoint. The language is deliberately small: `recording.py` translates torch operations into it, and a model that
requires other operations is loaded eagerly.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from onnxport.weights.casting import cast_into, copy_into

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]

STRIP = 16
"""Rows that are transposed at once. Measured on [13824, 5120], in GB/s for float32 and bfloat16: 1.8 and 1.1 with 16,
0.9 and 0.8 with 64 (rows conflict in the same cache sets), 1.2 and 0.6 with 4."""
CHUNK = 1 << 18
"""Elements that are read, converted and written at once, so that they stay in the CPU's cache."""


@dataclass(frozen=True)
class ByteRange:
    """A byte range of a checkpoint's file.

    Attributes:
        file: path relative to the checkpoint's directory, with forward slashes.
        offset: offset of the first byte in the file.
        nbytes: length in bytes.
    """

    file: str
    offset: int
    nbytes: int


class Reads(Protocol):
    """Read byte ranges of a checkpoint; implemented by `checkpoint.reading.Reader`."""

    def read(self, where: ByteRange, /) -> Array:
        """Return a byte range as a writable `uint8` array."""
        ...


class _NoFiles:
    """Read no checkpoint."""

    def read(self, where: ByteRange, /) -> Array:
        """Raise `TypeError`."""
        raise TypeError(f"{where} isn't in memory")


NO_FILES = _NoFiles()
"""Reader for expressions over arrays in memory."""


class Expression:
    """A tensor computed from other tensors; the subclasses are frozen dataclasses."""

    @property
    def dtype(self) -> ir.DataType:
        """Data type of the elements."""
        raise NotImplementedError

    @property
    def shape(self) -> Shape:
        """The shape."""
        raise NotImplementedError

    @property
    def children(self) -> tuple[Expression, ...]:
        """The operands; empty for a leaf."""
        return ()

    @property
    def computation(self) -> Hashable | None:
        """What is computed at once for this and other expressions; None if nothing is."""
        return self.children[0].computation if len(self.children) == 1 else None

    @cached_property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @cached_property
    def nbytes(self) -> int:
        """The size in bytes."""
        return math.ceil(self.size * self.dtype.itemsize)

    @cached_property
    def contiguous(self) -> ByteRange | None:
        """The byte range of a file that has exactly these values in row-major order; None if there is none."""
        return self._contiguous()

    def evaluate(self, reader: Reads) -> Array:
        """Return the values as a new array.

        In addition to the result, at most one tensor of the checkpoint is in memory, also for transposes and slices.
        """
        if self.contiguous is not None:
            return reader.read(self.contiguous).view(self.dtype.numpy()).reshape(self.shape)
        out = np.empty(self.shape, self.dtype.numpy())
        self.fill(out, reader)
        return out

    def fill(self, out: Array, reader: Reads) -> None:
        """Write the values into an array of the same shape and dtype, contiguous or not."""
        copy_into(self.evaluate(reader), out)

    def chunks(self, reader: Reads) -> Iterator[Array]:
        """Yield the values in row-major order as one-dimensional arrays, each valid until the next is requested.

        Values that are read in their stored order are never in memory all at once.
        """
        stored, dtype = self.contiguous, self.dtype.numpy()
        if stored is None:
            yield np.ascontiguousarray(self.evaluate(reader)).reshape(-1)
            return
        step = CHUNK * dtype.itemsize
        for start in range(0, stored.nbytes, step):
            chunk = ByteRange(stored.file, stored.offset + start, min(step, stored.nbytes - start))
            yield reader.read(chunk).view(dtype)

    def strips(self, reader: Reads) -> Iterator[Array]:
        """Yield the rows of a matrix, up to `STRIP` at a time.

        Writing a transpose is fastest in strips. Rows that are stored contiguously are read one strip at a time.
        """
        stored, (rows, columns) = self.contiguous, self.shape
        if stored is None:
            matrix = self.evaluate(reader)
            yield from (matrix[start : start + STRIP] for start in range(0, rows, STRIP))
            return
        row_bytes = stored.nbytes // max(1, rows)
        for start in range(0, rows, STRIP):
            count = min(STRIP, rows - start)
            strip = ByteRange(stored.file, stored.offset + start * row_bytes, count * row_bytes)
            yield reader.read(strip).view(self.dtype.numpy()).reshape(count, columns)

    def stored(self) -> Iterator[Stored]:
        """Yield the checkpoint tensors that the expression refers to, in order."""
        for child in self.children:
            yield from child.stored()

    def _contiguous(self) -> ByteRange | None:
        return None


@dataclass(frozen=True)
class Stored(Expression):
    """A tensor of a safetensors file.

    Attributes:
        file: path relative to the checkpoint's directory, with forward slashes.
        key: name in the file.
        stored_dtype: data type of the elements.
        sizes: the shape.
        begin: offset of the first byte in the file.
        end: offset after the last byte in the file.
    """

    file: str
    key: str
    stored_dtype: ir.DataType
    sizes: Shape
    begin: int
    end: int

    @property
    def dtype(self) -> ir.DataType:
        """Data type of the elements."""
        return self.stored_dtype

    @property
    def shape(self) -> Shape:
        """The shape."""
        return self.sizes

    def stored(self) -> Iterator[Stored]:
        """Yield itself."""
        yield self

    def _contiguous(self) -> ByteRange:
        return ByteRange(self.file, self.begin, self.end - self.begin)


@dataclass(frozen=True, eq=False)
class InMemory(Expression):
    """An array in memory, from a format that can't be read in parts, or computed when the model was constructed.

    Attributes:
        array: the values, which must not be modified.
    """

    array: Array = field(repr=False)

    @cached_property
    def dtype(self) -> ir.DataType:  # type: ignore[override]
        """Data type of the elements."""
        return ir.DataType.from_numpy(self.array.dtype)

    @property
    def shape(self) -> Shape:
        """The shape."""
        return tuple(self.array.shape)

    def evaluate(self, reader: Reads) -> Array:
        """Return the array itself, not a copy."""
        return self.array


@dataclass(frozen=True)
class _Unary(Expression):
    operand: Expression

    @property
    def dtype(self) -> ir.DataType:
        """Data type of the elements."""
        return self.operand.dtype

    @property
    def children(self) -> tuple[Expression, ...]:
        """The operands."""
        return (self.operand,)


@dataclass(frozen=True)
class Cast(_Unary):
    """A cast, with torch's rounding.

    Attributes:
        operand: the tensor to cast.
        to: the target data type.
    """

    to: ir.DataType

    @property
    def dtype(self) -> ir.DataType:
        """Data type of the elements."""
        return self.to

    @property
    def shape(self) -> Shape:
        """The shape."""
        return self.operand.shape

    def fill(self, out: Array, reader: Reads) -> None:
        """Write the values into an array."""
        cast_into(self.operand.evaluate(reader), out)

    def chunks(self, reader: Reads) -> Iterator[Array]:
        """Yield the values in row-major order."""
        out = np.empty(min(CHUNK, self.size), self.dtype.numpy())
        for chunk in self.operand.chunks(reader):
            for start in range(0, chunk.size, CHUNK):
                block = chunk[start : start + CHUNK]
                cast_into(block, out[: block.size])
                yield out[: block.size]

    def strips(self, reader: Reads) -> Iterator[Array]:
        """Yield the rows in strips."""
        for strip in self.operand.strips(reader):
            out = np.empty(strip.shape, self.dtype.numpy())
            cast_into(strip, out)
            yield out


@dataclass(frozen=True)
class Transpose(_Unary):
    """A permutation of axes.

    Attributes:
        operand: the tensor to transpose.
        axes: for each axis of the result, the operand's axis.
    """

    axes: Shape

    @cached_property
    def shape(self) -> Shape:  # type: ignore[override]
        """The shape."""
        return tuple(self.operand.shape[axis] for axis in self.axes)

    def fill(self, out: Array, reader: Reads) -> None:
        """Write the values into an array."""
        if self.axes != (1, 0):
            self.operand.fill(out.transpose(np.argsort(self.axes)), reader)
            return
        start = 0
        for strip in self.operand.strips(reader):
            copy_into(strip.T, out[:, start : start + len(strip)])
            start += len(strip)


@dataclass(frozen=True)
class Reshape(_Unary):
    """A reshape in row-major order.

    Attributes:
        operand: the tensor to reshape.
        sizes: the new shape.
    """

    sizes: Shape

    @property
    def shape(self) -> Shape:
        """The shape."""
        return self.sizes

    def evaluate(self, reader: Reads) -> Array:
        """Return the values."""
        return self.operand.evaluate(reader).reshape(self.sizes)

    def fill(self, out: Array, reader: Reads) -> None:
        """Write the values into an array."""
        if out.flags.c_contiguous:
            self.operand.fill(out.reshape(self.operand.shape), reader)
        else:
            copy_into(self.evaluate(reader), out)

    def chunks(self, reader: Reads) -> Iterator[Array]:
        """Yield the values in row-major order."""
        return self.operand.chunks(reader)

    def _contiguous(self) -> ByteRange | None:
        return self.operand.contiguous


@dataclass(frozen=True)
class Slice(_Unary):
    """Every `step`-th element of an axis, from `start` to `stop`, exclusive.

    Attributes:
        operand: the tensor to slice.
        axis: the axis.
        start: first index, ≥ 0.
        stop: index after the last, at most the size of the axis.
        step: step, ≥ 1.
    """

    axis: int
    start: int
    stop: int
    step: int = 1

    @cached_property
    def shape(self) -> Shape:  # type: ignore[override]
        """The shape."""
        sizes = list(self.operand.shape)
        sizes[self.axis] = len(range(self.start, self.stop, self.step))
        return tuple(sizes)

    def fill(self, out: Array, reader: Reads) -> None:
        """Write the values into an array."""
        index = (slice(None),) * self.axis + (slice(self.start, self.stop, self.step),)
        copy_into(self.operand.evaluate(reader)[index], out)

    def _contiguous(self) -> ByteRange | None:
        stored = self.operand.contiguous
        if stored is None or self.step != 1 or math.prod(self.operand.shape[: self.axis]) != 1:
            return None
        stride = stored.nbytes // max(1, self.operand.shape[self.axis])
        return ByteRange(stored.file, stored.offset + self.start * stride, (self.stop - self.start) * stride)


@dataclass(frozen=True)
class Concatenate(Expression):
    """A concatenation along an axis.

    Attributes:
        axis: the axis.
        parts: the tensors, whose shapes differ at most in the size of that axis.
    """

    axis: int
    parts: tuple[Expression, ...]

    @property
    def dtype(self) -> ir.DataType:
        """Data type of the elements."""
        return self.parts[0].dtype

    @cached_property
    def shape(self) -> Shape:  # type: ignore[override]
        """The shape."""
        sizes = list(self.parts[0].shape)
        sizes[self.axis] = sum(part.shape[self.axis] for part in self.parts)
        return tuple(sizes)

    @property
    def children(self) -> tuple[Expression, ...]:
        """The operands."""
        return self.parts

    def fill(self, out: Array, reader: Reads) -> None:
        """Write the values into an array, one operand at a time."""
        start = 0
        for part in self.parts:
            stop = start + part.shape[self.axis]
            part.fill(out[(slice(None),) * self.axis + (slice(start, stop),)], reader)
            start = stop

    def chunks(self, reader: Reads) -> Iterator[Array]:
        """Yield the values in row-major order."""
        if math.prod(self.shape[: self.axis]) != 1:
            yield from super().chunks(reader)
            return
        for part in self.parts:
            yield from part.chunks(reader)

    def _contiguous(self) -> ByteRange | None:
        if math.prod(self.parts[0].shape[: self.axis]) != 1:
            return None
        joined = self.parts[0].contiguous
        for part in self.parts[1:]:
            following = part.contiguous
            if joined is None or following is None or following.file != joined.file:
                return None
            if following.offset != joined.offset + joined.nbytes:
                return None
            joined = ByteRange(joined.file, joined.offset, joined.nbytes + following.nbytes)
        return joined
