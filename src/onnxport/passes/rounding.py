"""Compute bfloat16 arithmetic of float32 models in float32: ONNX Runtime 1.32 has no such kernels on the CPU.

    Mul(a, b)   →   Cast(Mul(Cast(a), Cast(b)))     where a and b are bfloat16

The product of two bfloat16 values is exact in float32, so that rounding it once gives the original result (Falcon's
ALiBi bias). Models with bfloat16 parameters aren't modified.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxport.weights.parameters import ParameterTensor

_ARITHMETIC = ("Add", "Div", "Mul", "Sub")


class RoundAfterwardsPass(ir.passes.InPlacePass):
    """Insert casts around bfloat16 arithmetic if no parameter is bfloat16."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change the nodes in place."""
        graph = model.graph
        tensors = [value.const_value for value in graph.initializers.values()]
        if any(isinstance(t, ParameterTensor) and t.dtype == ir.DataType.BFLOAT16 for t in tensors):
            return ir.passes.PassResult(model, modified=False)
        nodes = [n for n in graph if n.op_type in _ARITHMETIC and n.outputs[0].dtype == ir.DataType.BFLOAT16]
        for node in nodes:
            _round_afterwards(graph, node)
        return ir.passes.PassResult(model, modified=bool(nodes))


def _round_afterwards(graph: ir.Graph, node: ir.Node) -> None:
    for index, value in enumerate(node.inputs):
        cast = _cast(value, ir.DataType.FLOAT, node)
        graph.insert_before(node, cast)
        node.replace_input_with(index, cast.outputs[0])
    result = node.outputs[0]
    rounded = _cast(result, ir.DataType.BFLOAT16, node)
    result.dtype = ir.DataType.FLOAT
    graph.insert_after(node, rounded)
    ir.convenience.replace_all_uses_with(result, rounded.outputs[0])
    rounded.replace_input_with(0, result)


def _cast(value: ir.Value | None, dtype: ir.DataType, like: ir.Node) -> ir.Node:
    """Return a `Cast` node with the metadata, and so the module, of another node."""
    assert value is not None, "arithmetic has no optional inputs"
    cast = ir.node("Cast", [value], {"to": dtype})
    cast.metadata_props.update(like.metadata_props)
    cast.outputs[0].shape, cast.outputs[0].dtype = value.shape, dtype
    return cast
