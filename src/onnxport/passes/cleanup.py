"""Fold constants, drop what isn't used, and merge what is computed twice.

    Shape(x) → Cast → Reshape([-1]) → …, once per use      →   Shape(x) → …, once
    two equal constants                                    →   one initializer

onnxscript's optimizer does the work. Parameters are hidden from it as graph inputs, so that it can't fold, compare or
read them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from onnxport.weights.parameters import ParameterTensor


class CleanUpPass(ir.passes.InPlacePass):
    """Run onnxscript's optimizer on everything but the parameters, until it finds nothing."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Clean a graph in place."""
        from onnxscript.optimizer import optimize_ir
        from onnxscript.rewriter import onnx_fusions

        before = sum(1 for _ in model.graph.all_nodes())
        with hidden_parameters(model.graph):
            optimize_ir(model, onnx_shape_inference=False)
            _merge_equal_constants(model.graph)
            common_passes.CommonSubexpressionEliminationPass()(model)
            onnx_fusions.fuse(model)
        return ir.passes.PassResult(model, modified=sum(1 for _ in model.graph.all_nodes()) != before)


@contextmanager
def hidden_parameters(graph: ir.Graph) -> Iterator[None]:
    """Make parameters inputs of a graph for a while; those that are still used come back as initializers."""
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


def _merge_equal_constants(graph: ir.Graph) -> None:
    """Keep one of the constants with the same bytes, whatever their size: buffers that every layer has of its own."""
    seen: dict[tuple[object, ...], ir.Value] = {}
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or value.is_graph_output():
            continue
        kept = seen.setdefault((tensor.dtype, tuple(tensor.shape), tensor.tobytes()), value)
        if kept is not value:
            ir.convenience.replace_all_uses_with(value, kept)
            del graph.initializers[name]
