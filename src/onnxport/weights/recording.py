"""Tensors of torch without data that remember how they are made: what a checkpoint's tensors are while they are bound.

Transformers' loader works in threads, so this is a subclass of Tensor (it sees every operation wherever it runs), not
a mode. An operation that the language of expressions doesn't have raises, and is noted, for the loader may catch it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from onnx_ir import DataType
from onnx_ir.tensor_adapters import from_torch_dtype, to_torch_dtype
from torch.utils import _pytree as pytree

from onnxport.weights import building
from onnxport.weights.expressions import Expression, InMemory, Reads, Shape

aten = torch.ops.aten


class UnrecordableError(Exception):
    """Say which operation can't be written as an expression."""


@dataclass(frozen=True)
class Lost(Expression):
    """A tensor that the language has no words for. Nothing is wrong unless a parameter is made of it.

    Attributes:
        kind: type of its elements.
        sizes: its shape, which is what most code wants of it.
        operation: what it comes from.
        is_view: whether it may share another tensor's memory.
    """

    kind: DataType
    sizes: Shape
    operation: str
    is_view: bool

    @property
    def dtype(self) -> DataType:
        """Type of its elements."""
        return self.kind

    @property
    def shape(self) -> Shape:
        """Its sizes."""
        return self.sizes


@dataclass
class Tape:
    """Hold what the recordings of one checkpoint share.

    Attributes:
        reader: reads the checkpoint where two tensors must be compared: are they tied?
        refused: operations that couldn't be recorded.
        compared: pairs of tensors that were read to compare them, and whether they are equal.
    """

    reader: Reads
    refused: list[str] = field(default_factory=list)
    compared: list[tuple[Expression, Expression, bool]] = field(default_factory=list)


def without_data(kind: type[torch.Tensor], expression: Expression) -> Any:
    """Return a tensor of a subclass that has an expression, its shape and its dtype, and no memory."""
    made: Any = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
        kind,
        expression.shape,
        dtype=to_torch_dtype(expression.dtype),
        device=torch.device("cpu"),
        requires_grad=False,
    )
    made.expression = expression
    return made


class Recording(torch.Tensor):
    """A tensor that has an expression in place of data. It says that it is on the CPU, and contiguous."""

    expression: Expression
    tape: Tape

    @staticmethod
    def __new__(cls, expression: Expression, tape: Tape) -> Recording:
        """Return a tensor of an expression's shape and dtype."""
        made: Recording = without_data(cls, expression)
        made.tape = tape
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Recording({self.expression!r})"

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Let `tensor.data = other`, which reaches no operation, take over the other's expression."""
        result = super().__torch_function__(function, types, args, kwargs)  # type: ignore[no-untyped-call]
        if function is torch.Tensor.data.__set__:  # type: ignore[attr-defined]
            changed, source = args
            if not isinstance(changed, Recording) or not isinstance(source, Recording):
                tape = (changed if isinstance(changed, Recording) else source).tape
                tape.refused.append("tensor.data = …, between a recording and a tensor with data")
                raise UnrecordableError(tape.refused[-1])
            changed.expression = source.expression
        return result

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Record an operation."""
        tape = next(item.tape for item in pytree.tree_leaves((args, kwargs)) if isinstance(item, Recording))
        handler = _HANDLERS.get(function) or partial(_lose, function)
        try:
            result = handler(*args, **(kwargs or {}))
        except (TypeError, ValueError, AttributeError, RuntimeError) as error:
            tape.refused.append(f"{function}: {error}")
            raise UnrecordableError(tape.refused[-1]) from error
        return pytree.tree_map_only(Expression, lambda made: Recording(made, tape), result)


def expression_of(tensor: torch.Tensor | None) -> Expression | None:
    """Return how a tensor is made of a checkpoint's, None for one that has data."""
    return tensor.expression if isinstance(tensor, Recording) else None


def lost(expression: Expression) -> str:
    """Return the operation that an expression has no words for, nothing where it has."""
    if isinstance(expression, Lost):
        return expression.operation
    return next((found for child in expression.children if (found := lost(child))), "")


def _lose(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Find out the shapes that an operation gives.

    One that changes a tensor is refused, unless that is lost already: an initialisation of a computed weight, say.
    One that gives a number is refused too.
    """
    if function._schema.is_mutable:
        return _change(function, args, kwargs)
    args, kwargs = pytree.tree_map_only(
        torch.Tensor, lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta"), (args, kwargs)
    )
    result = function(*args, **kwargs)
    if not all(isinstance(item, torch.Tensor) and item.is_meta for item in pytree.tree_leaves(result)):
        raise TypeError("it looks at values")
    is_view = any(returned.alias_info is not None for returned in function._schema.returns)
    return pytree.tree_map_only(
        torch.Tensor,
        lambda tensor: Lost(from_torch_dtype(tensor.dtype), tuple(tensor.shape), str(function), is_view),
        result,
    )


def _change(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    changed = []
    for index, argument in enumerate(function._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            changed.append(args[index] if index < len(args) else kwargs.get(argument.name))
    made = [expression_of(tensor) for tensor in changed]
    if len(made) != 1 or not isinstance(made[0], Lost) or made[0].is_view:
        raise TypeError("it changes a tensor")
    return changed[0]


def _same(of: Recording, *_: Any, **__: Any) -> Expression:
    return of.expression


def _to_copy(
    of: Recording, *, dtype: torch.dtype | None = None, device: Any = None, memory_format: Any = None, **_: Any
) -> Expression:
    if device is not None and torch.device(device).type != "cpu":
        raise TypeError(f"it moves to {device}")
    return of.expression if dtype is None else building.cast(of.expression, from_torch_dtype(dtype))


def _axis(of: Recording, axis: int) -> int:
    return axis % max(1, of.ndim)


def _transpose(of: Recording, first: int, second: int) -> Expression:
    axes = list(range(of.ndim))
    first, second = _axis(of, first), _axis(of, second)
    axes[first], axes[second] = axes[second], axes[first]
    return building.transpose(of.expression, axes)


def _permute(of: Recording, axes: Sequence[int]) -> Expression:
    return building.transpose(of.expression, [_axis(of, axis) for axis in axes])


def _view(of: Recording, sizes: Sequence[int]) -> Expression:
    known = int(np.prod([size for size in sizes if size != -1], dtype=np.int64))
    return building.reshape(of.expression, [of.numel() // max(1, known) if size == -1 else size for size in sizes])


def _slice(
    of: Recording, axis: int = 0, start: int | None = None, stop: int | None = None, step: int = 1
) -> Expression:
    axis = _axis(of, axis)
    begin, end, _ = slice(start, stop).indices(of.shape[axis])
    return building.cut(of.expression, axis, begin, max(begin, end), step)


def _select(of: Recording, axis: int, index: int) -> Expression:
    axis = _axis(of, axis)
    index = index % of.shape[axis]
    return building.reshape(
        building.cut(of.expression, axis, index, index + 1), [*of.shape[:axis], *of.shape[axis + 1 :]]
    )


def _split_with_sizes(of: Recording, sizes: Sequence[int], axis: int = 0) -> list[Expression]:
    axis, ends = _axis(of, axis), np.cumsum([0, *sizes]).tolist()
    return [building.cut(of.expression, axis, start, stop) for start, stop in pairwise(ends)]


def _split(of: Recording, size: int, axis: int = 0) -> list[Expression]:
    whole = of.shape[_axis(of, axis)]
    return _split_with_sizes(of, [min(size, whole - start) for start in range(0, whole, size)], axis)


def _unbind(of: Recording, axis: int = 0) -> list[Expression]:
    return [_select(of, axis, index) for index in range(of.shape[axis])]


def _unsqueeze(of: Recording, axis: int) -> Expression:
    axis = axis % (of.ndim + 1)
    return building.reshape(of.expression, [*of.shape[:axis], 1, *of.shape[axis:]])


def _squeeze(of: Recording, axes: int | Sequence[int] | None = None) -> Expression:
    chosen = range(of.ndim) if axes is None else (axes,) if isinstance(axes, int) else axes
    gone = {_axis(of, axis) for axis in chosen}
    return building.reshape(
        of.expression, [size for axis, size in enumerate(of.shape) if axis not in gone or size != 1]
    )


def _cat(tensors: Sequence[torch.Tensor], axis: int = 0) -> Expression:
    parts = [_made(tensor) for tensor in tensors if tensor.ndim != 1 or tensor.numel()]
    return building.concatenate(parts, axis % max(1, len(parts[0].shape)))


def _stack(tensors: Sequence[torch.Tensor], axis: int = 0) -> Expression:
    axis = axis % (tensors[0].ndim + 1)
    shape = tensors[0].shape
    parts = [building.reshape(_made(tensor), [*shape[:axis], 1, *shape[axis:]]) for tensor in tensors]
    return building.concatenate(parts, axis)


def _pad(of: Recording, pads: Sequence[int], value: float = 0) -> Expression:
    """Cut or lengthen the last axes: Transformers fits a head's bias to its vocabulary this way."""
    made = of.expression
    for count, (before, after) in enumerate(zip(pads[::2], pads[1::2], strict=True), 1):
        axis = of.ndim - count
        made = building.cut(made, axis, max(0, -before), made.shape[axis] - max(0, -after))
        parts = [_constant(made, axis, before, value), made, _constant(made, axis, after, value)]
        made = building.concatenate(parts, axis)
    return made


def _constant(like: Expression, axis: int, size: int, value: float) -> Expression:
    sizes = [*like.shape[:axis], max(0, size), *like.shape[axis + 1 :]]
    return InMemory(np.full(sizes, value, like.dtype.numpy()))


def _made(tensor: torch.Tensor) -> Expression:
    found = expression_of(tensor)
    if found is None:
        raise TypeError("a tensor with data is joined to recordings")
    return found


def _multiply(first: Any, second: Any) -> Any:
    """Multiply two recordings of float32; everything else has no words."""
    made = [expression_of(tensor) if isinstance(tensor, torch.Tensor) else None for tensor in (first, second)]
    if any(item is None or item.dtype != DataType.FLOAT for item in made):
        return _lose(aten.mul.Tensor, first, second)
    one, other = sorted((item for item in made if item is not None), key=lambda item: -item.size)
    rank = max(len(one.shape), len(other.shape))
    if len(one.shape) < rank or lost(one) or lost(other):
        return _lose(aten.mul.Tensor, first, second)
    try:
        return building.product(one, building.reshape(other, [1] * (rank - len(other.shape)) + list(other.shape)))
    except ValueError:  # both are repeated
        return _lose(aten.mul.Tensor, first, second)


def _equal(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Compare two tensors, to see whether they are tied: the only operation that reads them."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    one, other = _made(first), _made(second)
    tape: Tape = first.tape  # type: ignore[attr-defined]
    if one == other:
        return True
    tape.compared.append((one, other, building.equal_values(one, other, tape.reader)))
    return tape.compared[-1][2]


_HANDLERS: dict[Any, Callable[..., Any]] = {
    aten.alias.default: _same,
    aten.detach.default: _same,
    aten.clone.default: _same,
    aten.contiguous.default: _same,
    aten.lift_fresh.default: _same,
    aten._to_copy.default: _to_copy,
    aten.t.default: lambda of: _permute(of, tuple(reversed(range(of.ndim)))),
    aten.transpose.int: _transpose,
    aten.permute.default: _permute,
    aten.view.default: _view,
    aten._unsafe_view.default: _view,
    aten.reshape.default: _view,
    aten._reshape_alias.default: lambda of, sizes, strides: _view(of, sizes),
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.split_with_sizes.default: _split_with_sizes,
    aten.split.Tensor: _split,
    aten.unbind.int: _unbind,
    aten.unsqueeze.default: _unsqueeze,
    aten.squeeze.default: _squeeze,
    aten.squeeze.dim: _squeeze,
    aten.squeeze.dims: _squeeze,
    aten.cat.default: _cat,
    aten.constant_pad_nd.default: _pad,
    aten.stack.default: _stack,
    aten.mul.Tensor: _multiply,
    aten.equal.default: _equal,
}
"""Operation → its meaning; each returns an expression, several, or a truth."""
