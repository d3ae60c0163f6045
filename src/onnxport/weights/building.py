"""Build expressions in a simplified form, and serialize them as JSON.

Nested reshapes are merged and no-op casts removed, so that unchanged tensors of a checkpoint remain recognizable.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxport.weights.arithmetic import LowRank, Mxfp4, Product, Rescaled
from onnxport.weights.casting import can_cast
from onnxport.weights.expressions import (
    Cast,
    Concatenate,
    Expression,
    InMemory,
    Reads,
    Reshape,
    Shape,
    Slice,
    Stored,
    Transpose,
)
from onnxport.weights.packed import Affine, Codebook, Unpacked
from onnxport.weights.quantization import Dequantized, Quantized

MAX_JSON_BYTES = 1 << 24
"""Maximum size in bytes of an in-memory array in JSON."""

_COMPARED_ELEMENTS = 1 << 22
"""Elements that are compared at once."""


def cast(operand: Expression, to: ir.DataType) -> Expression:
    """Cast a tensor.

    Raises:
        TypeError: the cast isn't supported.
    """
    if operand.dtype == to:
        return operand
    if not can_cast(operand.dtype.numpy(), to.numpy()):
        raise TypeError(f"there is no cast from {operand.dtype.name} to {to.name}")
    return Cast(operand, to)


def reshape(operand: Expression, sizes: Sequence[int]) -> Expression:
    """Reshape a tensor; -1 isn't allowed as a size.

    Raises:
        ValueError: the number of elements differs.
    """
    shape = tuple(sizes)
    if math.prod(shape) != operand.size:
        raise ValueError(f"{list(operand.shape)} can't be reshaped to {list(shape)}")
    if operand.shape == shape:
        return operand
    if isinstance(operand, Cast):
        return Cast(reshape(operand.operand, shape), operand.to)
    inner = operand.operand if isinstance(operand, Reshape) else operand
    return inner if inner.shape == shape else Reshape(inner, shape)


def transpose(operand: Expression, axes: Sequence[int]) -> Expression:
    """Permute the axes of a tensor.

    Raises:
        ValueError: `axes` isn't a permutation.
    """
    order = tuple(axes)
    if sorted(order) != list(range(len(operand.shape))):
        raise ValueError(f"{list(order)} isn't a permutation of the axes of {list(operand.shape)}")
    if isinstance(operand, Transpose):
        order, operand = tuple(operand.axes[axis] for axis in order), operand.operand
    if order == tuple(range(len(order))):
        return operand
    permuted = tuple(operand.shape[axis] for axis in order)
    if [axis for axis in order if operand.shape[axis] != 1] == [
        axis for axis in range(len(order)) if operand.shape[axis] != 1
    ]:
        return reshape(operand, permuted)
    return Transpose(operand, order)


def cut(operand: Expression, axis: int, start: int, stop: int, step: int = 1) -> Expression:
    """Slice an axis of a tensor, with non-negative indices.

    Raises:
        ValueError: the indices are out of range.
    """
    if not (0 <= start <= stop <= operand.shape[axis] and step >= 1):
        raise ValueError(f"{start}:{stop}:{step} isn't inside axis {axis} of {list(operand.shape)}")
    if start == 0 and stop == operand.shape[axis] and step == 1:
        return operand
    if isinstance(operand, Cast):  # so that fewer elements are cast and read
        return Cast(cut(operand.operand, axis, start, stop, step), operand.to)
    if isinstance(operand, LowRank) and axis == 0:
        up = cut(operand.up, 0, start, stop, step)
        return LowRank(cut(operand.operand, 0, start, stop, step), up, operand.down, operand.scale)
    if isinstance(operand, Slice) and operand.axis == axis and operand.step == 1:
        return Slice(operand.operand, axis, operand.start + start, operand.start + stop, step)
    return Slice(operand, axis, start, stop, step)


def concatenate(parts: Sequence[Expression], axis: int) -> Expression:
    """Concatenate tensors along an axis.

    Raises:
        ValueError: `parts` is empty, or their dtypes or the sizes of another axis differ.
    """
    if not parts:
        raise ValueError("nothing to concatenate")
    rest = {(part.dtype, part.shape[:axis], part.shape[axis + 1 :]) for part in parts}
    if len(rest) != 1:
        raise ValueError(f"tensors of {[list(part.shape) for part in parts]} can't be concatenated along axis {axis}")
    non_empty = [part for part in parts if part.shape[axis]]
    return non_empty[0] if len(non_empty) == 1 else Concatenate(axis, tuple(non_empty or parts[:1]))


def low_rank(operand: Expression, up: Expression, down: Expression, scale: float) -> Expression:
    """Return `operand + scale * up @ down`, in float32.

    Raises:
        TypeError: a matrix can't be cast to float32.
        ValueError: the shapes don't match.
    """
    for matrix in (operand, up, down):
        _check_float(matrix)
    shapes = (operand.shape, up.shape, down.shape)
    if [len(shape) for shape in shapes] != [2, 2, 2] or (up.shape[0], down.shape[1]) != operand.shape:
        raise ValueError(
            f"a product of {list(up.shape)} and {list(down.shape)} can't be added to {list(operand.shape)}"
        )
    if up.shape[1] != down.shape[0]:
        raise ValueError(f"{list(up.shape)} can't be multiplied with {list(down.shape)}")
    return LowRank(operand, up, down, scale)


def rescaled(operand: Expression, norms: Expression) -> Expression:
    """Rescale the rows of a float32 matrix to the given norms.

    Raises:
        TypeError: the matrix isn't float32, or the norms can't be cast to it.
        ValueError: there isn't one norm for each row.
    """
    _check_float(norms)
    if operand.dtype != ir.DataType.FLOAT:
        raise TypeError(f"rows of {operand.dtype.name} can't be rescaled, only FLOAT")
    if len(operand.shape) != 2 or norms.shape != operand.shape[:1]:
        raise ValueError(f"{list(norms.shape)} aren't norms for the rows of {list(operand.shape)}")
    return Rescaled(operand, norms)


def product(operand: Expression, by: Expression) -> Expression:
    """Return the element-wise product of two float32 tensors, the second broadcast to the first.

    Raises:
        TypeError: one of them isn't float32.
        ValueError: the shapes don't match.
    """
    if {operand.dtype, by.dtype} != {ir.DataType.FLOAT}:
        raise TypeError(f"{operand.dtype.name} and {by.dtype.name} can't be multiplied, only FLOAT")
    if len(operand.shape) != len(by.shape) or any(
        n not in (1, m) for m, n in zip(operand.shape, by.shape, strict=True)
    ):
        raise ValueError(f"{list(by.shape)} can't be broadcast to {list(operand.shape)}")
    return Product(operand, by)


def mxfp4(blocks: Expression, scales: Expression) -> Expression:
    """Return a dequantized MXFP4 tensor, in float32.

    Raises:
        TypeError: the blocks or the scales aren't uint8.
        ValueError: there isn't one scale for each block.
    """
    if {blocks.dtype, scales.dtype} != {ir.DataType.UINT8}:
        raise TypeError(f"blocks of {blocks.dtype.name} and scales of {scales.dtype.name} aren't MXFP4")
    if len(blocks.shape) < 2 or blocks.shape[:-1] != scales.shape:
        raise ValueError(f"{list(scales.shape)} aren't scales for the blocks {list(blocks.shape)}")
    return Mxfp4(blocks, scales)


def _check_float(operand: Expression) -> None:
    if operand.dtype != ir.DataType.FLOAT and not can_cast(operand.dtype.numpy(), ir.DataType.FLOAT.numpy()):
        raise TypeError(f"there is no cast from {operand.dtype.name} to FLOAT")


def uncast(operand: Expression) -> Expression:
    """Return an expression without its casts, with its values in the checkpoint's dtype."""
    if isinstance(operand, Cast):
        return uncast(operand.operand)
    try:
        return rebuilt(operand, [uncast(child) for child in operand.children])
    except (TypeError, ValueError):  # the operands' dtypes agree only after the casts
        return operand


def rebuilt(operand: Expression, children: Sequence[Expression]) -> Expression:
    """Return an expression with other operands."""
    match operand:
        case Cast():
            return cast(children[0], operand.to)
        case Transpose():
            return transpose(children[0], operand.axes)
        case Reshape():
            return reshape(children[0], operand.sizes)
        case Slice():
            return cut(children[0], operand.axis, operand.start, operand.stop, operand.step)
        case Concatenate():
            return concatenate(children, operand.axis)
        case LowRank():
            return low_rank(children[0], children[1], children[2], operand.scale)
        case Rescaled():
            return rescaled(children[0], children[1])
        case Product():
            return product(children[0], children[1])
        case Mxfp4():
            return mxfp4(children[0], children[1])
        case Unpacked():
            return replace(operand, operand=children[0])
        case Affine():
            values, scales, *others = children
            zeros = others.pop(0) if operand.zeros is not None else None
            return replace(operand, operand=values, scales=scales, zeros=zeros, groups=others[0] if others else None)
        case Codebook():
            return replace(operand, operand=children[0], codes=children[1], scales=children[2])
        case Quantized():
            return replace(operand, operand=children[0], importance=children[1] if len(children) > 1 else None)
        case Dequantized():
            values, scales, *points = children
            return replace(operand, values=values, scales=scales, zero_points=points[0] if points else None)
    return operand


def equal_values(one: Expression, other: Expression, reader: Reads) -> bool:
    """Return whether two tensors of the same shape are equal, reading a few megabytes at a time."""
    rows = one.shape[0] if one.shape else 0
    if not rows or isinstance(one, Concatenate) or isinstance(other, Concatenate):
        return bool((one.evaluate(reader) == other.evaluate(reader)).all())
    step = max(1, _COMPARED_ELEMENTS * rows // max(1, one.size))
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        if not (cut(one, 0, start, stop).evaluate(reader) == cut(other, 0, start, stop).evaluate(reader)).all():
            return False
    return True


def to_json(expression: Expression) -> dict[str, Any]:
    """Return an expression as a JSON object, the inverse of `from_json`.

    Raises:
        ValueError: it contains an array of more than `MAX_JSON_BYTES`.
    """
    name = type(expression).__name__
    if isinstance(expression, Stored):
        tensor = [expression.file, expression.key, expression.dtype.name, list(expression.shape)]
        return {name: [*tensor, expression.begin, expression.end]}
    if isinstance(expression, InMemory):
        if expression.nbytes > MAX_JSON_BYTES:
            raise ValueError(
                f"an array of {expression.nbytes} bytes can't be written as JSON (at most {MAX_JSON_BYTES})"
            )
        content = base64.b64encode(np.ascontiguousarray(expression.array).tobytes()).decode()
        return {name: [expression.dtype.name, list(expression.shape), content]}
    return {name: [*_settings(expression), *(to_json(child) for child in expression.children)]}


def _settings(expression: Expression) -> list[Any]:
    match expression:
        case Cast():
            return [expression.to.name]
        case Transpose():
            return [list(expression.axes)]
        case Reshape():
            return [list(expression.sizes)]
        case Slice():
            return [expression.axis, expression.start, expression.stop, expression.step]
        case Concatenate():
            return [expression.axis]
        case LowRank():
            return [expression.scale]
        case Unpacked():
            return [expression.bits, expression.axis, list(expression.order)]
        case Affine():
            flags = [expression.zeros is not None, expression.groups is not None]
            return [expression.offset, expression.divisor, *flags]
        case Codebook():
            return [list(expression.sizes), expression.offset]
        case Rescaled() | Product() | Mxfp4():
            return []
    raise TypeError(f"{type(expression).__name__} isn't an expression")


def from_json(value: Mapping[str, Any]) -> Expression:
    """Return an expression from the result of `to_json`.

    Raises:
        ValueError: the value isn't an expression.
    """
    try:
        ((name, items),) = value.items()
        return _READERS[name](list(items))
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise ValueError(f"{str(value)[:100]} isn't an expression: {error}") from error


def _stored(items: list[Any]) -> Expression:
    file, key, dtype, shape, begin, end = items
    tensor = Stored(file, key, ir.DataType[dtype], _sizes(shape), int(begin), int(end))
    if tensor.end - tensor.begin != tensor.nbytes:
        raise ValueError(f"{key!r} has {tensor.end - tensor.begin} bytes, not the {tensor.nbytes} of its shape")
    return tensor


def _in_memory(items: list[Any]) -> Expression:
    dtype, shape, content = items
    values = np.frombuffer(base64.b64decode(content, validate=True), ir.DataType[dtype].numpy())
    return InMemory(values.reshape(_sizes(shape)))


def _affine(items: list[Any]) -> Expression:
    offset, divisor, has_zeros, has_groups, *operands = items
    values, scales, *others = map(from_json, operands)
    zeros = others.pop(0) if has_zeros else None
    return Affine(values, scales, zeros, int(offset), others[0] if has_groups else None, int(divisor))


def _codebook(items: list[Any]) -> Expression:
    sizes, offset, *operands = items
    values, codes, scales = map(from_json, operands)
    return Codebook(values, codes, scales, _sizes(sizes), float(offset))


def _sizes(value: Iterable[int]) -> Shape:
    return tuple(int(size) for size in value)


_READERS: dict[str, Callable[[list[Any]], Expression]] = {
    "Stored": _stored,
    "InMemory": _in_memory,
    "Cast": lambda items: cast(from_json(items[1]), ir.DataType[items[0]]),
    "Transpose": lambda items: transpose(from_json(items[1]), _sizes(items[0])),
    "Reshape": lambda items: reshape(from_json(items[1]), _sizes(items[0])),
    "Slice": lambda items: cut(from_json(items[4]), *(int(item) for item in items[:4])),
    "Concatenate": lambda items: concatenate([from_json(item) for item in items[1:]], int(items[0])),
    "LowRank": lambda items: low_rank(from_json(items[1]), from_json(items[2]), from_json(items[3]), float(items[0])),
    "Unpacked": lambda items: Unpacked(from_json(items[3]), int(items[0]), int(items[1]), _sizes(items[2])),
    "Affine": _affine,
    "Codebook": _codebook,
    "Product": lambda items: product(from_json(items[0]), from_json(items[1])),
    "Mxfp4": lambda items: mxfp4(from_json(items[0]), from_json(items[1])),
    "Rescaled": lambda items: rescaled(from_json(items[0]), from_json(items[1])),
}
