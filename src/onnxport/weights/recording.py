"""Tensors without data that record operations as expressions; they are passed to Transformers' loader.

The loader of Transformers 5 uses threads, and a torch dispatch mode is thread-local; a Tensor subclass intercepts
operations in every thread. An operation without an expression raises, and is also recorded on the tape, because the
loader may catch the exception.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar, cast

import numpy as np
import torch
from onnx_ir import DataType
from onnx_ir.tensor_adapters import from_torch_dtype, to_torch_dtype
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from onnxport.weights import building
from onnxport.weights.expressions import Expression, InMemory, Reads, Shape

aten = torch.ops.aten

_TensorT = TypeVar("_TensorT", bound=torch.Tensor)


class UnrecordableError(Exception):
    """An operation can't be represented as an expression."""


@dataclass(frozen=True)
class Unsupported(Expression):
    """The result of an operation that expressions can't represent; an error only if a parameter depends on it.

    Attributes:
        element_type: data type of the elements.
        sizes: the shape, which is sufficient for most code.
        operation: name of the operation.
        is_view: whether it may share another tensor's memory.
    """

    element_type: DataType
    sizes: Shape
    operation: str
    is_view: bool

    @property
    def dtype(self) -> DataType:
        """Data type of the elements."""
        return self.element_type

    @property
    def shape(self) -> Shape:
        """The shape."""
        return self.sizes


@dataclass
class Tape:
    """State shared by the recordings of one checkpoint.

    Attributes:
        reader: reads the checkpoint, to compare tensors that may be tied.
        unsupported: operations that couldn't be recorded.
        comparisons: pairs of tensors that were read and compared, and whether they are equal.
    """

    reader: Reads
    unsupported: list[str] = field(default_factory=list)
    comparisons: list[tuple[Expression, Expression, bool]] = field(default_factory=list)


def tensor_without_data(tensor_class: type[_TensorT], expression: Expression) -> _TensorT:
    """Return an instance of a tensor subclass with an expression, its shape and its dtype, without storage."""
    tensor: Any = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
        tensor_class,
        expression.shape,
        dtype=to_torch_dtype(expression.dtype),
        device=torch.device("cpu"),
        requires_grad=False,
    )
    tensor.expression = expression
    return cast("_TensorT", tensor)


class Recording(torch.Tensor):
    """A tensor with an expression instead of data. Its device is the CPU, and it is contiguous."""

    expression: Expression
    tape: Tape

    @staticmethod
    def __new__(cls, expression: Expression, tape: Tape) -> Recording:
        """Create a recording with the shape and dtype of an expression."""
        recording: Recording = tensor_without_data(cls, expression)
        recording.tape = tape
        return recording

    def __repr__(self, *, tensor_contents: object = None) -> str:  # type: ignore[override]
        return f"Recording({self.expression!r})"

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., object],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        """Record `tensor.data = other`, which dispatches no operation, by copying the expression of `other`."""
        result: object = super().__torch_function__(function, types, args, kwargs)  # type: ignore[no-untyped-call]
        if function is torch.Tensor.data.__set__:  # type: ignore[attr-defined]
            changed, source = args
            if not isinstance(changed, Recording) or not isinstance(source, Recording):
                tape = (changed if isinstance(changed, Recording) else source).tape
                tape.unsupported.append("tensor.data = …, between a recording and a tensor with data")
                raise UnrecordableError(tape.unsupported[-1])
            changed.expression = source.expression
        return result

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        function: OpOverload,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        """Record an operation."""
        tape = next(item.tape for item in pytree.tree_leaves((args, kwargs)) if isinstance(item, Recording))
        handler = _HANDLERS.get(function) or partial(_infer_shapes, function)
        try:
            result = handler(*args, **(kwargs or {}))
        except (TypeError, ValueError, AttributeError, RuntimeError) as error:
            tape.unsupported.append(f"{function}: {error}")
            raise UnrecordableError(tape.unsupported[-1]) from error
        return pytree.tree_map_only(Expression, lambda expression: Recording(expression, tape), result)


def expression_of(tensor: torch.Tensor | None) -> Expression | None:
    """Return the expression of a tensor; None for a tensor with data."""
    return tensor.expression if isinstance(tensor, Recording) else None


def unsupported_operation(expression: Expression) -> str:
    """Return the name of the first unsupported operation in an expression; empty if there is none."""
    if isinstance(expression, Unsupported):
        return expression.operation
    return next((name for child in expression.children if (name := unsupported_operation(child))), "")


def _infer_shapes(function: OpOverload, *args: object, **kwargs: object) -> object:
    """Return `Unsupported` results with the shapes that an operation has on the meta device.

    Raises:
        TypeError: the operation returns a Python number; or it modifies a tensor that isn't `Unsupported`. (The
            in-place initialization of a computed weight modifies one that is.)
    """
    if function._schema.is_mutable:
        return _modified_tensor(function, args, kwargs)
    args, kwargs = pytree.tree_map_only(
        torch.Tensor, lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta"), (args, kwargs)
    )
    result = function(*args, **kwargs)
    if not all(isinstance(item, torch.Tensor) and item.is_meta for item in pytree.tree_leaves(result)):
        raise TypeError("it depends on values")
    is_view = any(returned.alias_info is not None for returned in function._schema.returns)
    return pytree.tree_map_only(
        torch.Tensor,
        lambda tensor: Unsupported(from_torch_dtype(tensor.dtype), tuple(tensor.shape), str(function), is_view),
        result,
    )


def _modified_tensor(function: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
    """Return the tensor that an in-place operation modifies, if its values don't matter."""
    modified = []
    for index, argument in enumerate(function._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            modified.append(args[index] if index < len(args) else kwargs.get(argument.name))
    expressions = [expression_of(tensor) for tensor in modified]
    if len(expressions) != 1 or not isinstance(expressions[0], Unsupported) or expressions[0].is_view:
        raise TypeError("it modifies a tensor")
    return modified[0]


def _identity(operand: Recording, *_: object, **__: object) -> Expression:
    return operand.expression


def _to_copy(
    operand: Recording, *, dtype: torch.dtype | None = None, device: torch.device | None = None, **_: object
) -> Expression:
    if device is not None and torch.device(device).type != "cpu":
        raise TypeError(f"it moves to {device}")
    return operand.expression if dtype is None else building.cast(operand.expression, from_torch_dtype(dtype))


def _axis(operand: Recording, axis: int) -> int:
    return axis % max(1, operand.ndim)


def _transpose(operand: Recording, first: int, second: int) -> Expression:
    axes = list(range(operand.ndim))
    first, second = _axis(operand, first), _axis(operand, second)
    axes[first], axes[second] = axes[second], axes[first]
    return building.transpose(operand.expression, axes)


def _permute(operand: Recording, axes: Sequence[int]) -> Expression:
    return building.transpose(operand.expression, [_axis(operand, axis) for axis in axes])


def _view(operand: Recording, sizes: Sequence[int]) -> Expression:
    elements = int(np.prod([size for size in sizes if size != -1], dtype=np.int64))
    return building.reshape(
        operand.expression, [operand.numel() // max(1, elements) if size == -1 else size for size in sizes]
    )


def _slice(
    operand: Recording, axis: int = 0, start: int | None = None, stop: int | None = None, step: int = 1
) -> Expression:
    axis = _axis(operand, axis)
    begin, end, _ = slice(start, stop).indices(operand.shape[axis])
    return building.cut(operand.expression, axis, begin, max(begin, end), step)


def _select(operand: Recording, axis: int, index: int) -> Expression:
    axis = _axis(operand, axis)
    index = index % operand.shape[axis]
    return building.reshape(
        building.cut(operand.expression, axis, index, index + 1), [*operand.shape[:axis], *operand.shape[axis + 1 :]]
    )


def _split_with_sizes(operand: Recording, sizes: Sequence[int], axis: int = 0) -> list[Expression]:
    axis, ends = _axis(operand, axis), np.cumsum([0, *sizes]).tolist()
    return [building.cut(operand.expression, axis, start, stop) for start, stop in pairwise(ends)]


def _split(operand: Recording, size: int, axis: int = 0) -> list[Expression]:
    total = operand.shape[_axis(operand, axis)]
    return _split_with_sizes(operand, [min(size, total - start) for start in range(0, total, size)], axis)


def _unbind(operand: Recording, axis: int = 0) -> list[Expression]:
    return [_select(operand, axis, index) for index in range(operand.shape[axis])]


def _unsqueeze(operand: Recording, axis: int) -> Expression:
    axis = axis % (operand.ndim + 1)
    return building.reshape(operand.expression, [*operand.shape[:axis], 1, *operand.shape[axis:]])


def _squeeze(operand: Recording, axes: int | Sequence[int] | None = None) -> Expression:
    selected = range(operand.ndim) if axes is None else (axes,) if isinstance(axes, int) else axes
    squeezed = {_axis(operand, axis) for axis in selected}
    return building.reshape(
        operand.expression, [size for axis, size in enumerate(operand.shape) if axis not in squeezed or size != 1]
    )


def _cat(tensors: Sequence[torch.Tensor], axis: int = 0) -> Expression:
    parts = [_recorded_expression(tensor) for tensor in tensors if tensor.ndim != 1 or tensor.numel()]
    return building.concatenate(parts, axis % max(1, len(parts[0].shape)))


def _stack(tensors: Sequence[torch.Tensor], axis: int = 0) -> Expression:
    axis = axis % (tensors[0].ndim + 1)
    shape = tensors[0].shape
    sizes = [*shape[:axis], 1, *shape[axis:]]
    parts = [building.reshape(_recorded_expression(tensor), sizes) for tensor in tensors]
    return building.concatenate(parts, axis)


def _pad(operand: Recording, pads: Sequence[int], value: float = 0) -> Expression:
    """Pad or crop the last axes, as Transformers does to match a head's bias to the vocabulary size."""
    padded = operand.expression
    for count, (before, after) in enumerate(zip(pads[::2], pads[1::2], strict=True), 1):
        axis = operand.ndim - count
        padded = building.cut(padded, axis, max(0, -before), padded.shape[axis] - max(0, -after))
        parts = [_constant(padded, axis, before, value), padded, _constant(padded, axis, after, value)]
        padded = building.concatenate(parts, axis)
    return padded


def _constant(like: Expression, axis: int, size: int, value: float) -> Expression:
    sizes = [*like.shape[:axis], max(0, size), *like.shape[axis + 1 :]]
    return InMemory(np.full(sizes, value, like.dtype.numpy()))


def _recorded_expression(tensor: torch.Tensor) -> Expression:
    expression = expression_of(tensor)
    if expression is None:
        raise TypeError("a tensor with data is combined with recordings")
    return expression


def _multiply(first: object, second: object) -> object:
    """Multiply two float32 recordings; other products are unsupported."""
    operands = [expression_of(tensor) if isinstance(tensor, torch.Tensor) else None for tensor in (first, second)]
    if any(item is None or item.dtype != DataType.FLOAT for item in operands):
        return _infer_shapes(aten.mul.Tensor, first, second)
    one, other = sorted((item for item in operands if item is not None), key=lambda item: -item.size)
    rank = max(len(one.shape), len(other.shape))
    if len(one.shape) < rank or unsupported_operation(one) or unsupported_operation(other):
        return _infer_shapes(aten.mul.Tensor, first, second)
    try:
        return building.product(one, building.reshape(other, [1] * (rank - len(other.shape)) + list(other.shape)))
    except ValueError:  # both are broadcast
        return _infer_shapes(aten.mul.Tensor, first, second)


def _equal(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Compare the values of two tensors, as the loader does to find tied weights; no other operation reads values."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    one, other = _recorded_expression(first), _recorded_expression(second)
    tape: Tape = first.tape  # type: ignore[attr-defined]
    if one == other:
        return True
    tape.comparisons.append((one, other, building.equal_values(one, other, tape.reader)))
    return tape.comparisons[-1][2]


_HANDLERS: dict[Any, Callable[..., Any]] = {
    aten.alias.default: _identity,
    aten.detach.default: _identity,
    aten.clone.default: _identity,
    aten.contiguous.default: _identity,
    aten.lift_fresh.default: _identity,
    aten._to_copy.default: _to_copy,
    aten.t.default: lambda operand: _permute(operand, tuple(reversed(range(operand.ndim)))),
    aten.transpose.int: _transpose,
    aten.permute.default: _permute,
    aten.view.default: _view,
    aten._unsafe_view.default: _view,
    aten.reshape.default: _view,
    aten._reshape_alias.default: lambda operand, sizes, strides: _view(operand, sizes),
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
"""Operation to handler, which returns an expression, several, or a bool."""
