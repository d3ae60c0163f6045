"""Replace the parameters of a graph with lazy tensors that read from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnxport.binding.bind import Binding
from onnxport.errors import WeightsMismatchError
from onnxport.weights.expressions import NO_FILES, Expression, InMemory, Reads
from onnxport.weights.parameters import Parameter, ParameterTensor, frozen_shape, substituted

if TYPE_CHECKING:
    import torch


class BoundTensor(ir.LazyTensor):
    """An initializer that is evaluated on each access, without caching.

    Args:
        name: name of the initializer.
        expression: expression of its values.
        reader: reader of the checkpoint.
    """

    def __init__(self, name: str | None, expression: Expression, reader: Reads) -> None:
        super().__init__(self._read, expression.dtype, frozen_shape(expression.shape), name=name)
        self.expression = expression
        self.reader = reader

    def _read(self) -> ir.TensorProtocol:
        return ir.Tensor(self.expression.evaluate(self.reader), dtype=self.dtype, name=self.name)


def bind_graph(model: ir.Model, binding: Binding, reader: Reads, *, prefix: str = "") -> None:
    """Replace the parameters of a graph and its subgraphs with `BoundTensor`s.

    Args:
        model: graph with `ParameterTensor`s, changed in place.
        binding: expressions of the parameters.
        reader: reader of the checkpoint.
        prefix: prefix of the graph's parameter names in the model, if the graph is a submodule's.

    Raises:
        WeightsMismatchError: a parameter isn't bound, or its dtype or shape differs from its expression's.
    """
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ParameterTensor):
                value.const_value = _bound(prefix, value.const_value, binding, reader)


def _bound(prefix: str, tensor: ParameterTensor, binding: Binding, reader: Reads) -> BoundTensor:
    def value_of(parameter: Parameter) -> Expression:
        name = f"{prefix}{parameter.name}"
        if name not in binding:
            raise WeightsMismatchError(
                f"the graph's parameter {name!r} isn't one of the model's {len(binding.expressions)}; export with "
                "--no-cache, and report this if it happens again"
            )
        value = binding[name]
        if (value.dtype, value.shape) != (parameter.dtype, parameter.shape):
            raise WeightsMismatchError(
                f"parameter {name!r} is {parameter.dtype.name} {list(parameter.shape)} in the graph, and "
                f"{value.dtype.name} {list(value.shape)} in the checkpoint; export with --no-cache, and report this "
                "if it happens again"
            )
        return value

    return BoundTensor(f"{prefix}{tensor.name}", substituted(tensor.expression, value_of), reader)


def bind_to_state(model: ir.Model, state: Mapping[str, torch.Tensor]) -> None:
    """Replace the parameters of a graph with tensors in memory, without copying.

    Args:
        model: graph with `ParameterTensor`s, changed in place.
        state: tensors by fully qualified name.
    """
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ParameterTensor):
                value.const_value = _in_memory(tensor.expression, state)


def _in_memory(expression: Expression, state: Mapping[str, torch.Tensor]) -> ir.TensorProtocol:
    from onnx_ir.tensor_adapters import TorchTensor

    if isinstance(expression, Parameter):
        return TorchTensor(state[expression.name].detach())

    def value_of(parameter: Parameter) -> Expression:
        return InMemory(TorchTensor(state[parameter.name].detach().cpu().contiguous()).numpy())

    values = substituted(expression, value_of)
    return ir.Tensor(values.evaluate(NO_FILES), dtype=expression.dtype)
