"""Run a model with its weights on disk: parameters are tensors without data, which are read when they are used.

They are a `torch.Tensor` subclass, so that it works for any module: `__torch_dispatch__` reads the values for every
operator that has such a tensor as an argument, and frees them after the operator, unless they fit into a cache.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from onnx_ir.tensor_adapters import to_torch_dtype
from torch.utils import _pytree as pytree

from onnxport.binding.bind import Binding
from onnxport.errors import WeightsMismatchError
from onnxport.weights import building
from onnxport.weights.expressions import Expression, Reads
from onnxport.weights.recording import tensor_without_data

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SMALL = 1 << 20
"""Bytes up to which a tensor is read immediately and stays in memory: norms, biases, tables."""

aten = torch.ops.aten


class Source:
    """Evaluate expressions, with an LRU cache of their values.

    Args:
        reader: reads the checkpoint.
        cache_bytes: size of the cache in bytes.
    """

    def __init__(self, reader: Reads, cache_bytes: int) -> None:
        self._reader = reader
        self._capacity = cache_bytes
        self._cache: OrderedDict[int, tuple[Expression, torch.Tensor]] = OrderedDict()
        self._bytes = 0

    def read(self, expression: Expression) -> torch.Tensor:
        """Return the values of an expression, which must not be modified."""
        cached = self._cache.get(id(expression))
        if cached is not None:
            self._cache.move_to_end(id(expression))
            return cached[1]
        self._evict(self._capacity - expression.nbytes)
        tensor = as_tensor(expression, self._reader)
        if expression.nbytes <= self._capacity:
            self._cache[id(expression)] = (expression, tensor)
            self._bytes += expression.nbytes
        return tensor

    def _evict(self, limit: int) -> None:
        """Remove the least recently used values until the cache has at most `limit` bytes."""
        while self._cache and self._bytes > limit:
            _, (expression, _) = self._cache.popitem(last=False)
            self._bytes -= expression.nbytes


class OnDemand(torch.Tensor):
    """A read-only tensor whose values are read each time an operator uses it."""

    expression: Expression
    source: Source

    @staticmethod
    def __new__(cls, expression: Expression, source: Source) -> OnDemand:
        """Return a tensor of an expression's shape and dtype."""
        tensor: OnDemand = tensor_without_data(cls, expression)
        tensor.source = source
        return tensor

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"OnDemand({self.expression!r})"

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator on the values; for an index of the first axis, only that slice is read."""
        if function in (aten.detach.default, aten.alias.default):
            return OnDemand(args[0].expression, args[0].source)
        if function is aten.select.int and args[1] in (0, -args[0].ndim):
            return _select(args[0], args[2])
        _check_not_written(function, args, kwargs or {})
        args, kwargs = pytree.tree_map_only(
            OnDemand, lambda tensor: tensor.source.read(tensor.expression), (args, kwargs)
        )
        return function(*args, **(kwargs or {}))


def read_on_demand(model: PreTrainedModel, binding: Binding, reader: Reads, cache_bytes: int = 0) -> PreTrainedModel:
    """Replace a model's weights by tensors that are read on demand.

    Args:
        model: its parameters and persistent buffers are replaced; they may be recorded, fake or real tensors.
        binding: the expressions of its parameters.
        reader: reads the checkpoint; it must stay open while the model is used.
        cache_bytes: bytes of values that may be cached after their use.

    Returns:
        The model.

    Raises:
        WeightsMismatchError: a parameter isn't bound.
    """
    source = Source(reader, cache_bytes)
    tensors: dict[str, torch.Tensor] = {}
    for path, module in model.named_modules():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            full = f"{path}.{name}" if path else name
            if tensor is None or name in module._non_persistent_buffers_set:
                continue
            if full not in binding:
                raise WeightsMismatchError(
                    f"{full} of {type(model).__name__} isn't bound to a tensor of the checkpoint"
                )
            key = binding.tied.get(full, full)
            if key not in tensors:
                tensors[key] = _make_tensor(binding.expressions[key], source, parameter=name in module._parameters)
            registered = module._parameters if name in module._parameters else module._buffers
            registered[name] = tensors[key]  # type: ignore[assignment]
    return model


def as_tensor(expression: Expression, reader: Reads) -> torch.Tensor:
    """Evaluate an expression."""
    array = expression.evaluate(reader)
    if not array.flags.writeable:
        array = array.copy()
    dtype = to_torch_dtype(expression.dtype)
    if array.dtype.type.__module__.partition(".")[0] != "numpy":  # torch.from_numpy has no bfloat16 and float8
        array = array.view(np.dtype(f"u{array.dtype.itemsize}"))
    tensor = torch.from_numpy(array)
    return tensor if tensor.dtype == dtype else tensor.view(dtype)


def _make_tensor(expression: Expression, source: Source, *, parameter: bool) -> torch.Tensor:
    is_large = expression.nbytes > SMALL
    tensor = OnDemand(expression, source) if is_large else source.read(expression)
    return torch.nn.Parameter(tensor, requires_grad=False) if parameter else tensor


def _select(tensor: OnDemand, index: int) -> OnDemand:
    index %= tensor.shape[0]
    selected = building.reshape(building.cut(tensor.expression, 0, index, index + 1), tensor.shape[1:])
    return OnDemand(selected, tensor.source)


def _check_not_written(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if not function._schema.is_mutable:
        return
    for index, argument in enumerate(function._schema.arguments):
        value = args[index] if index < len(args) else kwargs.get(argument.name)
        if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, OnDemand):
            raise TypeError(f"{function} writes to a weight that stays on disk; give validation more memory (--memory)")
