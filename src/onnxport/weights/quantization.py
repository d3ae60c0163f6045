"""Expressions of quantized matrices, in the layouts of ONNX Runtime's operators.

A matrix `[rows, columns]` is quantized in blocks of each row (`BlockScheme`), as `MatMulNBits` and
`GatherBlockQuantized` take it, or with one scale for each row (`RowScheme`), as `MatMulInteger` takes it. Values,
scales and zero points are different tensors of a file and one computation: a matrix is read and quantized once for all
of them.

Scales are searched: of a few candidates around the scale of rounding to nearest, the one with the smallest error
`sum(w * (x - q * s)**2)` is taken, where `w = rms + |x|` gives large elements more weight, and `s` is the least-squares
scale for the rounded values `q`. The weights are those of llama.cpp's k-quants without an importance matrix (pull
request 1684). Measured on SmolLM2-135M, 4 bits, blocks of 32: perplexity 20.4 with rounding to nearest, 19.2 so. With
`--calibration`, `w` is the mean square of the layer's input, as of their importance matrices (pull request 4861): 17.3.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx_ir as ir

from onnxport.weights.arithmetic import row_blocks
from onnxport.weights.casting import cast_into
from onnxport.weights.expressions import Array, Expression, InMemory, Reads, Shape
from onnxport.weights.grids import ZeroPoints, find_grids

Part = Literal["values", "scales", "zero_points"]

_CANDIDATES = (0.0, -1.0, 0.6)
"""Offsets of the level that the largest element of a block is rounded to.

Measured on SmolLM2-135M, 4 bits, blocks of 32: these explain as much as five from -0.8 to 0.8 (0.5 % more error, the
same perplexity), and seventeen from -1.6 to 1.6 leave 1.6 % less.
"""


@dataclass(frozen=True)
class BlockScheme:
    """Integers of a few bits; the elements of a block, which are consecutive in a row, share a scale.

    `x = (q - zero_point) * scale`, with unsigned `q`. Without zero points, it is `2 ** (bits - 1)`.

    Attributes:
        bits: bits of an integer: 2, 4 or 8.
        block_size: elements of a block, a power of 2 from 16.
        zero_points: `none`, `integer` of as many bits, or `float` of the scales' type.
        on_grid: whether elements are multiples of a scale already, since the checkpoint is quantized: it is found
            (`weights.grids`), and only blocks without one are rounded.
    """

    bits: int
    block_size: int
    zero_points: ZeroPoints = "none"
    on_grid: bool = False

    def blocks(self, columns: int) -> int:
        """Return the number of blocks in a row; the last one is padded with zeros."""
        return -(-columns // self.block_size)

    def shape_of(self, part: Part, rows: int, columns: int) -> Shape:
        """Return the shape of a part of a quantized matrix.

        Args:
            part: `values`, uint8 `[rows, blocks, bytes of a block]`; `scales`, `[rows, blocks]`; `zero_points`, packed
                uint8 `[rows, bytes]`, or `[rows, blocks]` of the scales' type.
            rows: rows of the matrix.
            columns: columns of the matrix.
        """
        blocks = self.blocks(columns)
        packed = -(-blocks * self.bits // 8)
        sizes: dict[Part, Shape] = {
            "values": (rows, blocks, self.block_size * self.bits // 8),
            "scales": (rows, blocks),
            "zero_points": (rows, blocks if self.zero_points == "float" else packed),
        }
        return sizes[part]

    @property
    def parts(self) -> tuple[Part, ...]:
        """The tensors of a quantized matrix."""
        return ("values", "scales") if self.zero_points == "none" else ("values", "scales", "zero_points")

    def dtype_of(self, part: Part, scales: ir.DataType) -> ir.DataType:
        """Return the data type of a part: integers are packed in bytes."""
        is_float = part == "scales" or (part == "zero_points" and self.zero_points == "float")
        return scales if is_float else ir.DataType.UINT8

    def quantize(
        self, matrix: Array, scale_dtype: np.dtype[np.generic], importance: Array | None = None
    ) -> dict[Part, Array]:
        """Quantize rows of a matrix.

        Args:
            matrix: float32 `[rows, columns]`.
            scale_dtype: the type that scales are rounded to, before values are computed with them.
            importance: weight of the error of each column, `[columns]`; None for weights that follow from the elements.
        """
        rows, columns = matrix.shape
        blocks = self.blocks(columns)
        padding = blocks * self.block_size - columns
        if padding:
            matrix = np.pad(matrix, ((0, 0), (0, padding)))
        elements = np.ascontiguousarray(matrix.reshape(rows * blocks, self.block_size).T)
        weights = None
        if importance is not None:
            weights = np.tile(np.pad(importance, (0, padding)).reshape(blocks, self.block_size).T, rows)
        found, zeros = self.scales_of(elements, weights)
        scales = found.astype(scale_dtype)
        levels = levels_of(elements, scales.astype(np.float32), zeros, self.bits)
        return self.packed(levels, scales.reshape(rows, blocks), zeros.reshape(rows, blocks))

    def packed(self, levels: Array, scales: Array, zeros: Array) -> dict[Part, Array]:
        """Return the parts of a quantized matrix.

        Args:
            levels: unsigned integers, as float32 `[block size, rows * blocks]`.
            scales: `[rows, blocks]`.
            zeros: zero points, float32 `[rows, blocks]`.
        """
        values = _packed(levels.astype(np.uint8), self.bits).T
        parts: dict[Part, Array] = {"values": np.ascontiguousarray(values).reshape(*scales.shape, -1), "scales": scales}
        if self.zero_points == "float":
            parts["zero_points"] = zeros.astype(scales.dtype)
        elif self.zero_points == "integer":
            padding = -scales.shape[1] % (8 // self.bits)
            points = np.pad(zeros.astype(np.uint8), ((0, 0), (0, padding)))
            parts["zero_points"] = np.ascontiguousarray(_packed(points.T, self.bits).T)
        return parts

    def dequantize(self, parts: dict[Part, Array], columns: int) -> Array:
        """Return the float32 matrix that quantized rows stand for."""
        values = _unpacked(parts["values"], self.bits)
        rows, blocks, _ = values.shape
        scales = parts["scales"].astype(np.float32).reshape(rows, blocks, 1)
        if self.zero_points == "none":
            points: Array = np.full((1, 1, 1), 1 << (self.bits - 1), np.float32)
        elif self.zero_points == "integer":
            points = _unpacked(parts["zero_points"], self.bits)[:, :blocks, None].astype(np.float32)
        else:
            points = parts["zero_points"].astype(np.float32).reshape(rows, blocks, 1)
        return ((values.astype(np.float32) - points) * scales).reshape(rows, -1)[:, :columns]

    def scales_of(self, elements: Array, weights: Array | None) -> tuple[Array, Array]:
        """Return the scale and the zero point of each block, `[blocks]`.

        Args:
            elements: float32 `[block size, blocks]`, so that sums over a block add whole rows.
            weights: weight of the error of each element, of the same shape; None for weights that follow from them.
        """
        if not self.on_grid:
            return self._best(elements, weights)
        grid = find_grids(np.ascontiguousarray(elements.T), self.bits, self.zero_points)
        if not grid.found.all():
            rest = ~grid.found
            grid.scales[rest], grid.zeros[rest] = self._best(np.ascontiguousarray(elements[:, rest]), None)
        return grid.scales, grid.zeros

    def _best(self, elements: Array, weights: Array | None) -> tuple[Array, Array]:
        """Return the scale and the zero point of each column that lose least."""
        candidates = list(self._candidates(elements))
        if len(candidates) == 1:
            return candidates[0]
        if weights is None:
            weights = np.abs(elements)
            weights += np.sqrt(np.einsum("ij,ij->j", elements, elements) / len(elements))
        weighted, levels = weights * elements, np.empty_like(elements)
        best = np.full(elements.shape[1], -1.0, np.float32)
        best_scales, best_zeros = np.zeros_like(best), np.zeros_like(best)
        for scales, zeros in candidates:
            np.rint(np.multiply(elements, _inverse(scales), out=levels), out=levels)
            np.minimum(levels, (1 << self.bits) - 1 - zeros, out=levels)  # np.clip takes four times as long
            np.maximum(levels, -zeros, out=levels)
            product = np.einsum("ij,ij->j", levels, weighted)
            square = np.einsum("ij,ij->j", np.square(levels, out=levels), weights)
            fitted = product / np.maximum(square, np.finfo(np.float32).tiny)
            explained = product * fitted  # the error is sum(w * x**2) less this
            better = (explained > best).astype(np.float32)
            for chosen, of_candidate in ((best, explained), (best_scales, fitted), (best_zeros, zeros)):
                chosen *= 1 - better  # six times as fast as copying with a mask
                chosen += better * of_candidate
        return best_scales, best_zeros

    def _candidates(self, elements: Array) -> Iterator[tuple[Array, Array]]:
        """Yield scales and zero points of each column, those of rounding to nearest first."""
        offsets = _CANDIDATES if self.bits < 8 else _CANDIDATES[:1]
        half, most = 1 << (self.bits - 1), (1 << self.bits) - 1
        low, high = elements.min(0), elements.max(0)
        if self.zero_points == "none":
            largest = np.copysign(np.maximum(-low, high), low + high)
            for offset in offsets:  # the largest element is rounded to the level furthest from zero
                yield largest / np.float32(-half - offset), np.full(len(largest), half, np.float32)
            return
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        for offset in offsets:
            scales = (high - low) / np.float32(most + offset)
            yield scales, np.clip(np.rint(-low * _inverse(scales)), 0, most)


@dataclass(frozen=True)
class RowScheme:
    """8-bit integers with one scale for each row, symmetric: `x = q * scale`.

    Signed values have 7 bits, -64 to 64: on CPUs without VNNI, ONNX Runtime adds two products of an unsigned and a
    signed byte in 16 bits, which saturates with 8 bits (measured: a perplexity of 10^7).

    Attributes:
        signed: whether the values are int8; uint8 with a zero point of 128 otherwise.
    """

    signed: bool = True

    def shape_of(self, part: Part, rows: int, columns: int) -> Shape:
        """Return the shape of a part: `values` `[rows, columns]`, or `scales` `[rows]`."""
        return (rows, columns) if part == "values" else (rows,)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The tensors of a quantized matrix."""
        return ("values", "scales")

    def dtype_of(self, part: Part, scales: ir.DataType) -> ir.DataType:
        """Return the data type of a part."""
        return scales if part == "scales" else ir.DataType.INT8 if self.signed else ir.DataType.UINT8

    @property
    def zero_point(self) -> int:
        """The value that stands for 0."""
        return 0 if self.signed else 128

    def quantize(self, matrix: Array, scale_dtype: np.dtype[np.generic]) -> dict[Part, Array]:
        """Quantize rows of a float32 matrix."""
        most = 64 if self.signed else 127
        scales = (np.abs(matrix).max(1) / np.float32(most)).astype(scale_dtype)
        inverse = np.divide(1, scales, out=np.zeros(len(scales), np.float32), where=scales > 0, dtype=np.float32)
        values = np.clip(np.rint(matrix * inverse[:, None]), -most, most) + self.zero_point
        return {"values": values.astype(np.int8 if self.signed else np.uint8), "scales": scales}

    def dequantize(self, parts: dict[Part, Array], columns: int) -> Array:
        """Return the float32 matrix that quantized rows stand for."""
        values = parts["values"].astype(np.float32) - self.zero_point
        return values * parts["scales"].astype(np.float32)[:, None]


@dataclass(frozen=True)
class Nf4Scheme:
    """Indices of the 16 values of NF4, in blocks that share a scale, as `MatMulBnb4` takes them.

    Source of the values, quantiles of a normal distribution: QLoRA (Dettmers et al., 2023, arXiv:2305.14314).

    Attributes:
        block_size: elements of a block, which are consecutive in a row.
    """

    block_size: int = 64

    @property
    def parts(self) -> tuple[Part, ...]:
        """The tensors of a quantized matrix."""
        return ("values", "scales")

    def dtype_of(self, part: Part, scales: ir.DataType) -> ir.DataType:
        """Return the data type of a part: two indices are packed in a byte."""
        return scales if part == "scales" else ir.DataType.UINT8

    def shape_of(self, part: Part, rows: int, columns: int) -> Shape:
        """Return the shape of a part: `values` `[elements / 2]`, or `scales` `[blocks]`, in row-major order."""
        return (rows * columns // (2 if part == "values" else self.block_size),)

    def quantize(self, matrix: Array, scale_dtype: np.dtype[np.generic]) -> dict[Part, Array]:
        """Quantize rows of a float32 matrix, whose columns are a multiple of the block size."""
        blocks = matrix.reshape(-1, self.block_size)
        scales = np.abs(blocks).max(1).astype(scale_dtype)
        inverse = np.divide(1, scales, out=np.zeros(len(scales), np.float32), where=scales > 0, dtype=np.float32)
        scaled = (blocks * inverse[:, None]).reshape(-1)
        indices = np.zeros(scaled.shape, np.uint8)
        for border in _NF4_BORDERS:  # comparing with each is five times as fast as a binary search
            indices += scaled > border
        return {"values": indices[0::2] << np.uint8(4) | indices[1::2], "scales": scales}

    def dequantize(self, parts: dict[Part, Array], columns: int) -> Array:
        """Return the float32 matrix that quantized rows stand for."""
        packed = parts["values"]
        indices = np.stack([packed >> np.uint8(4), packed & np.uint8(15)], axis=-1).reshape(-1, self.block_size)
        return (_NF4[indices] * parts["scales"].astype(np.float32)[:, None]).reshape(-1, columns)


_NF4 = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
        *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
        *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ],
    np.float32,
)
_NF4_BORDERS = (_NF4[:-1] + _NF4[1:]) / 2

Scheme = BlockScheme | RowScheme | Nf4Scheme


@dataclass(frozen=True)
class Quantized(Expression):
    """A part of a quantized matrix.

    Attributes:
        operand: the matrix `[rows, columns]`, of any floating-point type, which is that of the scales.
        scheme: how it is quantized.
        part: values, scales or zero points.
        importance: weight of the error of each column, of a scheme with blocks; None for the scheme's own.
    """

    operand: Expression
    scheme: Scheme
    part: Part
    importance: Expression | None = None

    @property
    def dtype(self) -> ir.DataType:
        """Data type of the part."""
        return self.scheme.dtype_of(self.part, self.operand.dtype)

    @property
    def shape(self) -> Shape:
        """Shape of the part; see the scheme's `shape_of`."""
        rows, columns = self.operand.shape
        return self.scheme.shape_of(self.part, rows, columns)

    @property
    def children(self) -> tuple[Expression, ...]:
        """The operands."""
        return (self.operand, *((self.importance,) if self.importance is not None else ()))

    @property
    def computation(self) -> _Computation:
        """The quantization of the matrix."""
        return _Computation(self.operand, self.scheme, self.importance)

    def evaluate(self, reader: Reads) -> Array:
        """Return the values of the part."""
        computation = self.computation
        return _RESULTS.take(computation, self.part, lambda: computation.run(reader))


@dataclass(frozen=True)
class Dequantized(Expression):
    """The matrix that quantized values stand for.

    Attributes:
        values: integers, in the scheme's layout.
        scales: scales, in the scheme's layout.
        zero_points: zero points, in the scheme's layout; None without them.
        scheme: how it is quantized.
        sizes: the shape of the matrix, `[rows, columns]`.
    """

    values: Expression
    scales: Expression
    zero_points: Expression | None
    scheme: Scheme
    sizes: Shape

    @property
    def dtype(self) -> ir.DataType:
        """Data type of the scales."""
        return self.scales.dtype

    @property
    def shape(self) -> Shape:
        """`[rows, columns]`."""
        return self.sizes

    @property
    def children(self) -> tuple[Expression, ...]:
        """The operands."""
        return (self.values, self.scales, *((self.zero_points,) if self.zero_points is not None else ()))

    def evaluate(self, reader: Reads) -> Array:
        """Return the matrix."""
        parts: dict[Part, Array] = {"values": self.values.evaluate(reader), "scales": self.scales.evaluate(reader)}
        if self.zero_points is not None:
            parts["zero_points"] = self.zero_points.evaluate(reader)
        out = np.empty(self.shape, self.dtype.numpy())
        cast_into(self.scheme.dequantize(parts, self.sizes[1]), out)
        return out


def quantized(operand: Expression, scheme: Scheme, importance: Expression | None = None) -> Dequantized:
    """Quantize a matrix: the operands of the result are the tensors of a quantized graph.

    Args:
        operand: the matrix `[rows, columns]`.
        scheme: how it is quantized.
        importance: weight of the error of each column, `[columns]`; None for the scheme's own.
    """
    return Dequantized(
        Quantized(operand, scheme, "values", importance),
        Quantized(operand, scheme, "scales", importance),
        Quantized(operand, scheme, "zero_points", importance) if "zero_points" in scheme.parts else None,
        scheme,
        operand.shape,
    )


def quantized_already(parts: Mapping[Part, Array], scheme: BlockScheme, columns: int) -> Dequantized:
    """Return a matrix whose parts are known.

    Args:
        parts: as `BlockScheme.quantize` returns them.
        scheme: how it is quantized.
        columns: its number of columns.
    """
    points = InMemory(parts["zero_points"]) if "zero_points" in parts else None
    values, scales = InMemory(parts["values"]), InMemory(parts["scales"])
    return Dequantized(values, scales, points, scheme, (values.shape[0], columns))


@dataclass(frozen=True)
class _Computation:
    """The quantization of a matrix."""

    operand: Expression
    scheme: Scheme
    importance: Expression | None

    def run(self, reader: Reads) -> dict[Part, Array]:
        """Quantize the matrix, some rows at a time."""
        dtype = self.operand.dtype.numpy()
        importance = None if self.importance is None else self.importance.evaluate(reader)
        blocks = []
        for block in row_blocks(self.operand, reader):
            rows = np.empty(block.shape, np.float32)
            cast_into(block, rows)
            if isinstance(self.scheme, BlockScheme):
                blocks.append(self.scheme.quantize(rows, dtype, importance))
            else:
                blocks.append(self.scheme.quantize(rows, dtype))
        return {part: np.concatenate([block[part] for block in blocks]) for part in blocks[0]}


class _Results:
    """Keep the parts of quantized matrices until each has been taken, of the last few matrices at most."""

    _KEPT = 8

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: OrderedDict[_Computation, _Pending] = OrderedDict()

    def take(self, key: _Computation, part: Part, compute: Callable[[], dict[Part, Array]]) -> Array:
        """Return a part; it is computed with all others if it wasn't yet, or was taken before.

        Args:
            key: the matrix.
            part: the part.
            compute: computes all parts.
        """
        with self._lock:
            pending = self._pending.get(key)
            if pending is None or part not in pending.left:
                pending = self._pending[key] = _Pending(set(key.scheme.parts))
            pending.left.discard(part)
            if not pending.left:
                del self._pending[key]
            while len(self._pending) > self._KEPT:
                self._pending.popitem(last=False)
        with pending.lock:
            if pending.result is None:
                pending.result = compute()
        return pending.result[part]


@dataclass
class _Pending:
    """Hold the parts of a matrix that haven't been taken, and the result once it is computed."""

    left: set[Part]
    result: dict[Part, Array] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


_RESULTS = _Results()


def levels_of(elements: Array, scales: Array, zeros: Array, bits: int) -> Array:
    """Return the unsigned integers of blocks, as float32 `[elements, blocks]`.

    Args:
        elements: float32 `[elements, blocks]`.
        scales: float32 `[blocks]`.
        zeros: zero points, float32 `[blocks]`.
        bits: bits of an integer.
    """
    levels = elements * _inverse(scales)
    levels += zeros
    np.rint(levels, out=levels)
    return np.clip(levels, 0, (1 << bits) - 1, out=levels)


def _inverse(scales: Array) -> Array:
    """Return the reciprocals of scales; 1 for 0, with which all integers stand for 0."""
    return np.reciprocal(np.where(scales == 0, np.float32(1), scales))


def _packed(values: Array, bits: int) -> Array:
    """Pack integers of a few bits into bytes, the first in the lowest bits, along the first axis."""
    per_byte = 8 // bits
    out: Array = values[::per_byte].copy()
    for index in range(1, per_byte):
        out |= values[index::per_byte] << np.uint8(bits * index)
    return out


def _unpacked(packed: Array, bits: int) -> Array:
    """Unpack integers of a few bits, the inverse of `_packed`."""
    per_byte, mask = 8 // bits, np.uint8((1 << bits) - 1)
    out = np.empty((*packed.shape[:-1], packed.shape[-1] * per_byte), np.uint8)
    for index in range(per_byte):
        out[..., index::per_byte] = (packed >> np.uint8(bits * index)) & mask
    return out
