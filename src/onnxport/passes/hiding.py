"""Hide parameters from passes that would fold, compare or read them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir

from onnxport.weights.parameters import ParameterTensor


@contextmanager
def hidden_parameters(graph: ir.Graph) -> Iterator[None]:
    """Turn parameters into graph inputs in a block; afterwards, the parameters still in use are initializers again."""
    hidden = {value: value.const_value for value in graph.initializers.values() if _is_parameter(value)}
    for value in hidden:
        del graph.initializers[str(value.name)]
        value.const_value = None
    graph.inputs.extend(hidden)
    try:
        yield
    finally:
        for value, tensor in hidden.items():
            graph.inputs.remove(value)
            value.const_value = tensor
            if value.uses() or value.is_graph_output():
                graph.register_initializer(value)


def _is_parameter(value: ir.Value) -> bool:
    return isinstance(value.const_value, ParameterTensor)
