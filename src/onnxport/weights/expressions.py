"""Say how a parameter is made of a checkpoint's tensors, without reading them.

An expression is a value: it can be compared, kept as JSON, and evaluated where the checkpoint is. The language is
small on purpose; `recording.py` translates torch's operations into it, and what it can't say is loaded eagerly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from onnxport.weights.casting import cast_into, copy_into

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]

STRIP = 16
"""Rows that are transposed at once. Measured on [13824, 5120], in GB/s of float32 and of bfloat16: 1.8 and 1.1 with 16,
0.9 and 0.8 with 64 (their rows fight for the same places of the cache), 1.2 and 0.6 with 4."""
PIECE = 1 << 18
"""Elements that are read, converted and written at once: more would cost the memory's speed instead of the cache's."""


@dataclass(frozen=True)
class ByteRange:
    """Name bytes of a file of a checkpoint.

    Attributes:
        file: path inside the checkpoint's directory, with forward slashes.
        offset: first byte, counted from the start of the file.
        nbytes: how many.
    """

    file: str
    offset: int
    nbytes: int


class Reads(Protocol):
    """Read bytes of a checkpoint; see `reading.Reader`."""

    def read(self, where: ByteRange, /) -> Array:
        """Return bytes as an array of `uint8` that may be written to."""
        ...


class Expression:
    """A tensor made of others; the subclasses are frozen dataclasses."""

    @property
    def dtype(self) -> ir.DataType:
        """Type of its elements."""
        raise NotImplementedError

    @property
    def shape(self) -> Shape:
        """Its sizes."""
        raise NotImplementedError

    @property
    def children(self) -> tuple[Expression, ...]:
        """What it is made of; empty for a leaf."""
        return ()

    @cached_property
    def size(self) -> int:
        """The number of its elements."""
        return math.prod(self.shape)

    @cached_property
    def nbytes(self) -> int:
        """The number of bytes it has."""
        return math.ceil(self.size * self.dtype.itemsize)

    @cached_property
    def contiguous(self) -> ByteRange | None:
        """Where its bytes are, one after the other and unchanged, in a file of the checkpoint; None where nowhere."""
        return self._contiguous()

    def evaluate(self, reader: Reads) -> Array:
        """Return its values, as an array of its own.

        At most one tensor of the checkpoint is in memory beside the result, for transposed and sliced ones too.
        """
        if self.contiguous is not None:
            return reader.read(self.contiguous).view(self.dtype.numpy()).reshape(self.shape)
        out = np.empty(self.shape, self.dtype.numpy())
        self.fill(out, reader)
        return out

    def fill(self, out: Array, reader: Reads) -> None:
        """Write its values into an array of its shape and dtype, contiguous or not."""
        copy_into(self.evaluate(reader), out)

    def pieces(self, reader: Reads) -> Iterator[Array]:
        """Yield its values in order, as flat arrays that hold until the next one is asked for.

        What is read in the order in which it is stored is in memory in small pieces only.
        """
        where, dtype = self.contiguous, self.dtype.numpy()
        if where is None:
            yield np.ascontiguousarray(self.evaluate(reader)).reshape(-1)
            return
        step = PIECE * dtype.itemsize
        for start in range(0, where.nbytes, step):
            part = ByteRange(where.file, where.offset + start, min(step, where.nbytes - start))
            yield reader.read(part).view(dtype)

    def strips(self, reader: Reads) -> Iterator[Array]:
        """Yield its rows, some at a time; it has two axes.

        What is transposed is written fastest from these, and only they are in memory where rows are stored as such.
        """
        where, (rows, columns) = self.contiguous, self.shape
        if where is None:
            whole = self.evaluate(reader)
            yield from (whole[start : start + STRIP] for start in range(0, rows, STRIP))
            return
        width = where.nbytes // max(1, rows)
        for start in range(0, rows, STRIP):
            count = min(STRIP, rows - start)
            part = ByteRange(where.file, where.offset + start * width, count * width)
            yield reader.read(part).view(self.dtype.numpy()).reshape(count, columns)

    def stored(self) -> Iterator[Stored]:
        """Yield the tensors of the checkpoint that it is made of, in order."""
        for child in self.children:
            yield from child.stored()

    def _contiguous(self) -> ByteRange | None:
        return None


@dataclass(frozen=True)
class Stored(Expression):
    """A tensor of a safetensors file.

    Attributes:
        file: path inside the checkpoint's directory, with forward slashes.
        key: its name in the file.
        stored_dtype: type of its elements.
        sizes: its shape.
        begin: first byte, counted from the start of the file.
        end: byte after the last.
    """

    file: str
    key: str
    stored_dtype: ir.DataType
    sizes: Shape
    begin: int
    end: int

    @property
    def dtype(self) -> ir.DataType:
        """Type of its elements."""
        return self.stored_dtype

    @property
    def shape(self) -> Shape:
        """Its sizes."""
        return self.sizes

    def stored(self) -> Iterator[Stored]:
        """Yield itself."""
        yield self

    def _contiguous(self) -> ByteRange:
        return ByteRange(self.file, self.begin, self.end - self.begin)


@dataclass(frozen=True, eq=False)
class InMemory(Expression):
    """An array that was read already: of a format that can't be read in parts, or computed when the model was built.

    Attributes:
        array: its values; nobody writes to it.
    """

    array: Array = field(repr=False)

    @cached_property
    def dtype(self) -> ir.DataType:  # type: ignore[override]
        """Type of its elements."""
        return ir.DataType.from_numpy(self.array.dtype)

    @property
    def shape(self) -> Shape:
        """Its sizes."""
        return tuple(self.array.shape)

    def evaluate(self, reader: Reads) -> Array:
        """Return the array itself: it would be needless to copy it."""
        return self.array


@dataclass(frozen=True)
class _Unary(Expression):
    of: Expression

    @property
    def dtype(self) -> ir.DataType:
        """Type of its elements."""
        return self.of.dtype

    @property
    def children(self) -> tuple[Expression, ...]:
        """What it is made of."""
        return (self.of,)


@dataclass(frozen=True)
class Cast(_Unary):
    """Another type of elements, rounded as torch does.

    Attributes:
        of: what is cast.
        to: the wanted type.
    """

    to: ir.DataType

    @property
    def dtype(self) -> ir.DataType:
        """Type of its elements."""
        return self.to

    @property
    def shape(self) -> Shape:
        """Its sizes."""
        return self.of.shape

    def fill(self, out: Array, reader: Reads) -> None:
        """Write its values into an array."""
        cast_into(self.of.evaluate(reader), out)

    def pieces(self, reader: Reads) -> Iterator[Array]:
        """Yield its values in order."""
        out = np.empty(min(PIECE, self.size), self.dtype.numpy())
        for piece in self.of.pieces(reader):
            for start in range(0, piece.size, PIECE):
                part = piece[start : start + PIECE]
                cast_into(part, out[: part.size])
                yield out[: part.size]

    def strips(self, reader: Reads) -> Iterator[Array]:
        """Yield its rows, some at a time."""
        for strip in self.of.strips(reader):
            out = np.empty(strip.shape, self.dtype.numpy())
            cast_into(strip, out)
            yield out


@dataclass(frozen=True)
class Transpose(_Unary):
    """The same elements with their axes in another order.

    Attributes:
        of: what is transposed.
        axes: which of its axes becomes the first, the second, …
    """

    axes: Shape

    @cached_property
    def shape(self) -> Shape:  # type: ignore[override]
        """Its sizes."""
        return tuple(self.of.shape[axis] for axis in self.axes)

    def fill(self, out: Array, reader: Reads) -> None:
        """Write its values into an array."""
        if self.axes != (1, 0):
            self.of.fill(out.transpose(np.argsort(self.axes)), reader)
            return
        start = 0
        for strip in self.of.strips(reader):
            copy_into(strip.T, out[:, start : start + len(strip)])
            start += len(strip)


@dataclass(frozen=True)
class Reshape(_Unary):
    """The same elements, in the same order, with other sizes.

    Attributes:
        of: what is reshaped.
        sizes: the wanted sizes.
    """

    sizes: Shape

    @property
    def shape(self) -> Shape:
        """Its sizes."""
        return self.sizes

    def evaluate(self, reader: Reads) -> Array:
        """Return its values."""
        return self.of.evaluate(reader).reshape(self.sizes)

    def fill(self, out: Array, reader: Reads) -> None:
        """Write its values into an array."""
        if out.flags.c_contiguous:
            self.of.fill(out.reshape(self.of.shape), reader)
        else:
            copy_into(self.evaluate(reader), out)

    def pieces(self, reader: Reads) -> Iterator[Array]:
        """Yield its values in order."""
        return self.of.pieces(reader)

    def _contiguous(self) -> ByteRange | None:
        return self.of.contiguous


@dataclass(frozen=True)
class Slice(_Unary):
    """Every `step`-th element of an axis, from `start` up to `stop`.

    Attributes:
        of: what is sliced.
        axis: the axis.
        start: first index, zero or more.
        stop: index after the last, at most the axis's size.
        step: one or more.
    """

    axis: int
    start: int
    stop: int
    step: int = 1

    @cached_property
    def shape(self) -> Shape:  # type: ignore[override]
        """Its sizes."""
        sizes = list(self.of.shape)
        sizes[self.axis] = len(range(self.start, self.stop, self.step))
        return tuple(sizes)

    def fill(self, out: Array, reader: Reads) -> None:
        """Write its values into an array."""
        index = (slice(None),) * self.axis + (slice(self.start, self.stop, self.step),)
        copy_into(self.of.evaluate(reader)[index], out)

    def _contiguous(self) -> ByteRange | None:
        whole = self.of.contiguous
        if whole is None or self.step != 1 or math.prod(self.of.shape[: self.axis]) != 1:
            return None
        each = whole.nbytes // max(1, self.of.shape[self.axis])
        return ByteRange(whole.file, whole.offset + self.start * each, (self.stop - self.start) * each)


@dataclass(frozen=True)
class Concatenate(Expression):
    """Tensors one after the other along an axis.

    Attributes:
        axis: the axis.
        parts: the tensors; they differ at most in that axis's size.
    """

    axis: int
    parts: tuple[Expression, ...]

    @property
    def dtype(self) -> ir.DataType:
        """Type of its elements."""
        return self.parts[0].dtype

    @cached_property
    def shape(self) -> Shape:  # type: ignore[override]
        """Its sizes."""
        sizes = list(self.parts[0].shape)
        sizes[self.axis] = sum(part.shape[self.axis] for part in self.parts)
        return tuple(sizes)

    @property
    def children(self) -> tuple[Expression, ...]:
        """What it is made of."""
        return self.parts

    def fill(self, out: Array, reader: Reads) -> None:
        """Write its values into an array, one part at a time."""
        start = 0
        for part in self.parts:
            stop = start + part.shape[self.axis]
            part.fill(out[(slice(None),) * self.axis + (slice(start, stop),)], reader)
            start = stop

    def pieces(self, reader: Reads) -> Iterator[Array]:
        """Yield its values in order."""
        if math.prod(self.shape[: self.axis]) != 1:
            yield from super().pieces(reader)
            return
        for part in self.parts:
            yield from part.pieces(reader)

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
