"""Build expressions in their simplest form, and turn them into JSON and back.

A reshape of a reshape is one, a cast to the same type is none: what a checkpoint holds unchanged stays recognisable.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
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

MAX_JSON_BYTES = 1 << 24
"""Bytes up to which an array in memory is kept in JSON."""

_COMPARED = 1 << 22
"""Elements that are compared at once."""


def cast(of: Expression, to: ir.DataType) -> Expression:
    """Return a tensor in another type.

    Raises:
        TypeError: torch's rounding to that type isn't known here.
    """
    if of.dtype == to:
        return of
    if not can_cast(of.dtype.numpy(), to.numpy()):
        raise TypeError(f"there is no cast from {of.dtype.name} to {to.name}")
    return Cast(of, to)


def reshape(of: Expression, sizes: Sequence[int]) -> Expression:
    """Return a tensor with other sizes, all of them given.

    Raises:
        ValueError: the number of elements differs.
    """
    shape = tuple(sizes)
    if math.prod(shape) != of.size:
        raise ValueError(f"{list(of.shape)} can't be reshaped to {list(shape)}")
    if of.shape == shape:
        return of
    if isinstance(of, Cast):
        return Cast(reshape(of.of, shape), of.to)
    inner = of.of if isinstance(of, Reshape) else of
    return inner if inner.shape == shape else Reshape(inner, shape)


def transpose(of: Expression, axes: Sequence[int]) -> Expression:
    """Return a tensor with its axes in another order.

    Raises:
        ValueError: `axes` doesn't name each axis once.
    """
    order = tuple(axes)
    if sorted(order) != list(range(len(of.shape))):
        raise ValueError(f"{list(order)} isn't an order of the axes of {list(of.shape)}")
    if isinstance(of, Transpose):
        order, of = tuple(of.axes[axis] for axis in order), of.of
    if order == tuple(range(len(order))):
        return of
    moved = tuple(of.shape[axis] for axis in order)
    if [axis for axis in order if of.shape[axis] != 1] == [axis for axis in range(len(order)) if of.shape[axis] != 1]:
        return reshape(of, moved)
    return Transpose(of, order)


def cut(of: Expression, axis: int, start: int, stop: int, step: int = 1) -> Expression:
    """Return a part of a tensor; indices count from zero and lie inside the axis.

    Raises:
        ValueError: they don't.
    """
    if not (0 <= start <= stop <= of.shape[axis] and step >= 1):
        raise ValueError(f"{start}:{stop}:{step} isn't inside axis {axis} of {list(of.shape)}")
    if start == 0 and stop == of.shape[axis] and step == 1:
        return of
    if isinstance(of, Cast):  # less is cast, and less is read
        return Cast(cut(of.of, axis, start, stop, step), of.to)
    if isinstance(of, LowRank) and axis == 0:
        up = cut(of.up, 0, start, stop, step)
        return LowRank(cut(of.of, 0, start, stop, step), up, of.down, of.scale)
    if isinstance(of, Slice) and of.axis == axis and of.step == 1:
        return Slice(of.of, axis, of.start + start, of.start + stop, step)
    return Slice(of, axis, start, stop, step)


def concatenate(parts: Sequence[Expression], axis: int) -> Expression:
    """Return tensors one after the other along an axis.

    Raises:
        ValueError: there are none, or they differ in their type or in another axis's size.
    """
    if not parts:
        raise ValueError("nothing to concatenate")
    rest = {(part.dtype, part.shape[:axis], part.shape[axis + 1 :]) for part in parts}
    if len(rest) != 1:
        raise ValueError(f"tensors of {[list(part.shape) for part in parts]} can't be concatenated along axis {axis}")
    filled = [part for part in parts if part.shape[axis]]
    return filled[0] if len(filled) == 1 else Concatenate(axis, tuple(filled or parts[:1]))


def low_rank(of: Expression, up: Expression, down: Expression, scale: float) -> Expression:
    """Return a matrix with the product of two others added, in float32.

    Raises:
        TypeError: one of them can't be cast to float32.
        ValueError: their shapes don't fit.
    """
    for part in (of, up, down):
        _check_float(part)
    shapes = (of.shape, up.shape, down.shape)
    if [len(shape) for shape in shapes] != [2, 2, 2] or (up.shape[0], down.shape[1]) != of.shape:
        raise ValueError(f"a product of {list(up.shape)} and {list(down.shape)} can't be added to {list(of.shape)}")
    if up.shape[1] != down.shape[0]:
        raise ValueError(f"{list(up.shape)} can't be multiplied with {list(down.shape)}")
    return LowRank(of, up, down, scale)


def rescaled(of: Expression, lengths: Expression) -> Expression:
    """Return a matrix whose rows have given lengths, in float32.

    Raises:
        TypeError: it isn't float32, or the lengths can't be cast to it.
        ValueError: there isn't one length for each row.
    """
    _check_float(lengths)
    if of.dtype != ir.DataType.FLOAT:
        raise TypeError(f"rows of {of.dtype.name} aren't rescaled")
    if len(of.shape) != 2 or lengths.shape != of.shape[:1]:
        raise ValueError(f"{list(lengths.shape)} aren't lengths for the rows of {list(of.shape)}")
    return Rescaled(of, lengths)


def product(of: Expression, by: Expression) -> Expression:
    """Return a float32 tensor multiplied by another one, which is repeated where it has size 1.

    Raises:
        TypeError: one of them isn't float32.
        ValueError: their shapes don't fit.
    """
    if {of.dtype, by.dtype} != {ir.DataType.FLOAT}:
        raise TypeError(f"{of.dtype.name} and {by.dtype.name} aren't multiplied, only FLOAT")
    if len(of.shape) != len(by.shape) or any(n not in (1, m) for m, n in zip(of.shape, by.shape, strict=True)):
        raise ValueError(f"{list(by.shape)} can't be repeated to {list(of.shape)}")
    return Product(of, by)


def mxfp4(blocks: Expression, scales: Expression) -> Expression:
    """Return what packed numbers of 4 bits stand for, in float32.

    Raises:
        TypeError: the bytes or the exponents aren't uint8.
        ValueError: there isn't one exponent for each block.
    """
    if {blocks.dtype, scales.dtype} != {ir.DataType.UINT8}:
        raise TypeError(f"blocks of {blocks.dtype.name} and scales of {scales.dtype.name} aren't MXFP4")
    if len(blocks.shape) < 2 or blocks.shape[:-1] != scales.shape:
        raise ValueError(f"{list(scales.shape)} aren't scales for the blocks {list(blocks.shape)}")
    return Mxfp4(blocks, scales)


def _check_float(of: Expression) -> None:
    if of.dtype != ir.DataType.FLOAT and not can_cast(of.dtype.numpy(), ir.DataType.FLOAT.numpy()):
        raise TypeError(f"there is no cast from {of.dtype.name} to FLOAT")


def uncast(of: Expression) -> Expression:
    """Return an expression without its casts: what it is in the checkpoint's own type, before it was rounded."""
    if isinstance(of, Cast):
        return uncast(of.of)
    try:
        return rebuilt(of, [uncast(child) for child in of.children])
    except (TypeError, ValueError):  # parts that have one type only because they were cast
        return of


def rebuilt(of: Expression, children: Sequence[Expression]) -> Expression:
    """Return an expression with others in the place of what it is made of."""
    match of:
        case Cast():
            return cast(children[0], of.to)
        case Transpose():
            return transpose(children[0], of.axes)
        case Reshape():
            return reshape(children[0], of.sizes)
        case Slice():
            return cut(children[0], of.axis, of.start, of.stop, of.step)
        case Concatenate():
            return concatenate(children, of.axis)
        case LowRank():
            return low_rank(children[0], children[1], children[2], of.scale)
        case Rescaled():
            return rescaled(children[0], children[1])
        case Product():
            return product(children[0], children[1])
        case Mxfp4():
            return mxfp4(children[0], children[1])
    return of


def equal_values(one: Expression, other: Expression, reader: Reads) -> bool:
    """Return whether two tensors of the same shape have the same values, reading a few megabytes at a time."""
    rows = one.shape[0] if one.shape else 0
    if not rows or isinstance(one, Concatenate) or isinstance(other, Concatenate):
        return bool((one.evaluate(reader) == other.evaluate(reader)).all())
    step = max(1, _COMPARED * rows // max(1, one.size))
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        if not (cut(one, 0, start, stop).evaluate(reader) == cut(other, 0, start, stop).evaluate(reader)).all():
            return False
    return True


def to_json(expression: Expression) -> dict[str, Any]:
    """Return an expression as a JSON object; `from_json` undoes it.

    Raises:
        ValueError: it holds an array of more than `MAX_JSON_BYTES`.
    """
    name = type(expression).__name__
    if isinstance(expression, Stored):
        place = [expression.file, expression.key, expression.dtype.name, list(expression.shape)]
        return {name: [*place, expression.begin, expression.end]}
    if isinstance(expression, InMemory):
        if expression.nbytes > MAX_JSON_BYTES:
            raise ValueError(f"an array of {expression.nbytes} bytes isn't kept as JSON (at most {MAX_JSON_BYTES})")
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
        case Rescaled() | Product() | Mxfp4():
            return []
    raise TypeError(f"{type(expression).__name__} isn't part of the language")


def from_json(value: Any) -> Expression:
    """Return the expression that `to_json` was given.

    Raises:
        ValueError: the value doesn't come from there.
    """
    try:
        ((name, items),) = value.items()
        return _READERS[name](list(items))
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise ValueError(f"{str(value)[:100]} isn't an expression: {error}") from error


def _stored(items: list[Any]) -> Expression:
    file, key, dtype, shape, begin, end = items
    found = Stored(file, key, ir.DataType[dtype], _sizes(shape), int(begin), int(end))
    if found.end - found.begin != found.nbytes:
        raise ValueError(f"{key!r} has {found.end - found.begin} bytes, not the {found.nbytes} of its shape")
    return found


def _in_memory(items: list[Any]) -> Expression:
    dtype, shape, content = items
    values = np.frombuffer(base64.b64decode(content, validate=True), ir.DataType[dtype].numpy())
    return InMemory(values.reshape(_sizes(shape)))


def _sizes(value: Any) -> Shape:
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
    "Product": lambda items: product(from_json(items[0]), from_json(items[1])),
    "Mxfp4": lambda items: mxfp4(from_json(items[0]), from_json(items[1])),
    "Rescaled": lambda items: rescaled(from_json(items[0]), from_json(items[1])),
}
