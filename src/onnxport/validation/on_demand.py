"""Let a model run with its weights on disk: a parameter is a tensor without data that is read when it is used.

It doesn't matter which module uses it, or how: every operation that gets such a tensor gets its values, and they are
given up when the operation is done, unless there is room to keep them.
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
"""Bytes up to which a tensor is read at once, and stays: norms, biases, tables."""

aten = torch.ops.aten


class Source:
    """Evaluate expressions, and keep the values of the last ones as far as there is room.

    Args:
        reader: reads the checkpoint.
        keep: bytes that may be kept.
    """

    def __init__(self, reader: Reads, keep: int) -> None:
        self._reader = reader
        self._keep = keep
        self._kept: OrderedDict[int, tuple[Expression, torch.Tensor]] = OrderedDict()
        self._bytes = 0

    def read(self, expression: Expression) -> torch.Tensor:
        """Return the values of an expression; nobody may write to them."""
        found = self._kept.get(id(expression))
        if found is not None:
            self._kept.move_to_end(id(expression))
            return found[1]
        self._give_up(self._keep - expression.nbytes)
        tensor = as_tensor(expression, self._reader)
        if expression.nbytes <= self._keep:
            self._kept[id(expression)] = (expression, tensor)
            self._bytes += expression.nbytes
        return tensor

    def _give_up(self, room: int) -> None:
        while self._kept and self._bytes > room:
            _, (expression, _) = self._kept.popitem(last=False)
            self._bytes -= expression.nbytes


class OnDemand(torch.Tensor):
    """A tensor that is read each time an operation uses it. It can't be written to."""

    expression: Expression
    source: Source

    @staticmethod
    def __new__(cls, expression: Expression, source: Source) -> OnDemand:
        """Return a tensor of an expression's shape and dtype."""
        made: OnDemand = tensor_without_data(cls, expression)
        made.source = source
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"OnDemand({self.expression!r})"

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation on the values; a part of the first axis is read alone."""
        if function in (aten.detach.default, aten.alias.default):
            return OnDemand(args[0].expression, args[0].source)
        if function is aten.select.int and args[1] in (0, -args[0].ndim):
            return _select(args[0], args[2])
        _refuse_writing(function, args, kwargs or {})
        args, kwargs = pytree.tree_map_only(
            OnDemand, lambda tensor: tensor.source.read(tensor.expression), (args, kwargs)
        )
        return function(*args, **(kwargs or {}))


def read_on_demand(model: PreTrainedModel, binding: Binding, reader: Reads, keep: int = 0) -> PreTrainedModel:
    """Give a model weights that stay on disk.

    Args:
        model: its parameters and persistent buffers are replaced, whatever they were: recordings, fake, or real.
        binding: what they are made of.
        reader: reads the checkpoint, as long as the model is used.
        keep: bytes of values that may be kept in memory after their use.

    Returns:
        The model.

    Raises:
        WeightsMismatchError: a parameter isn't bound.
    """
    source = Source(reader, keep)
    made: dict[str, torch.Tensor] = {}
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
            if key not in made:
                made[key] = _made(binding.expressions[key], source, parameter=name in module._parameters)
            kind = module._parameters if name in module._parameters else module._buffers
            kind[name] = made[key]  # type: ignore[assignment]
    return model


def as_tensor(expression: Expression, reader: Reads) -> torch.Tensor:
    """Evaluate an expression."""
    array = expression.evaluate(reader)
    if not array.flags.writeable:
        array = array.copy()
    wanted = to_torch_dtype(expression.dtype)
    if array.dtype.type.__module__.partition(".")[0] != "numpy":  # torch takes bfloat16 and float8 as plain bits
        array = array.view(np.dtype(f"u{array.dtype.itemsize}"))
    tensor = torch.from_numpy(array)
    return tensor if tensor.dtype == wanted else tensor.view(wanted)


def _made(expression: Expression, source: Source, *, parameter: bool) -> torch.Tensor:
    large = expression.nbytes > SMALL
    tensor = OnDemand(expression, source) if large else source.read(expression)
    return torch.nn.Parameter(tensor, requires_grad=False) if parameter else tensor


def _select(tensor: OnDemand, index: int) -> OnDemand:
    index %= tensor.shape[0]
    part = building.reshape(building.cut(tensor.expression, 0, index, index + 1), tensor.shape[1:])
    return OnDemand(part, tensor.source)


def _refuse_writing(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if not function._schema.is_mutable:
        return
    for index, argument in enumerate(function._schema.arguments):
        given = args[index] if index < len(args) else kwargs.get(argument.name)
        if argument.alias_info is not None and argument.alias_info.is_write and isinstance(given, OnDemand):
            raise TypeError(f"{function} writes to a weight that stays on disk; give the proof more memory (--memory)")
