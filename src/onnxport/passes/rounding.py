"""Compute bfloat16 values in float32 where ONNX or ONNX Runtime can't otherwise, and round the results.

    Mul(a, b)     →   Cast(Mul(Cast(a), Cast(b)))     of float32 models, where a and b are bfloat16
    Softplus(a)   →   Cast(Softplus(Cast(a)))         of all models, where the opset's operator takes no bfloat16

PyTorch's operators compute in float32 and round once, too. The arithmetic is that of Falcon's ALiBi bias, for which
ONNX Runtime 1.32 has no kernels on the CPU; models with bfloat16 parameters, which it doesn't run there, keep theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir
from onnx import defs

from onnxport.weights.parameters import ParameterTensor

_ARITHMETIC = ("Add", "Div", "Mul", "Sub")


class RoundAfterwardsPass(ir.passes.InPlacePass):
    """Insert casts around bfloat16 operators that the opset doesn't have, and around arithmetic of float32 models."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change the nodes in place."""
        tensors = [value.const_value for value in model.graph.initializers.values()]
        is_half = any(isinstance(t, ParameterTensor) and t.dtype == ir.DataType.BFLOAT16 for t in tensors)
        arithmetic = () if is_half else _ARITHMETIC
        version = model.opset_imports.get("", 0)
        nodes = [node for graph in model.graphs() for node in graph if not node.domain]
        found = [(node, values) for node in nodes if (values := list(_rounded_values(node, version, arithmetic)))]
        for node, values in found:
            _round_afterwards(node, values)
        return ir.passes.PassResult(model, modified=bool(found))


def _rounded_values(node: ir.Node, version: int, arithmetic: Sequence[str]) -> Iterator[ir.Value]:
    """Yield the bfloat16 inputs and outputs of a node that aren't bfloat16 in an opset, or in an arithmetic operator.

    The tracer leaves out types of values within its functions. Those follow from the other values of the same type in
    the operator's schema.
    """
    present = [value for value in (*node.inputs, *node.outputs) if value is not None]
    if not any(value.dtype == ir.DataType.BFLOAT16 for value in present) or not defs.has(node.op_type, version, ""):
        return  # the schema of every node of every graph would be looked up
    schema = defs.get_schema(node.op_type, version, "")
    for constraint in schema.type_constraints:
        allowed = set(constraint.allowed_type_strs)
        if node.op_type not in arithmetic and ("tensor(float)" not in allowed or "tensor(bfloat16)" in allowed):
            continue
        sides = ((node.inputs, schema.inputs), (node.outputs, schema.outputs))
        values = [
            value
            for side, formal in sides
            for index, value in enumerate(side)
            if value is not None and formal[min(index, len(formal) - 1)].type_str == constraint.type_param_str
        ]
        if any(value.dtype == ir.DataType.BFLOAT16 for value in values):
            yield from values


def _round_afterwards(node: ir.Node, values: Sequence[ir.Value]) -> None:
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    for index, value in enumerate(node.inputs):
        if value is not None and any(value is one for one in values):
            cast = _cast(value, ir.DataType.FLOAT, node)
            graph.insert_before(node, cast)
            node.replace_input_with(index, cast.outputs[0])
    for result in [value for value in node.outputs if any(value is one for one in values)]:
        rounded = _cast(result, ir.DataType.BFLOAT16, node)
        result.dtype = ir.DataType.FLOAT
        graph.insert_after(node, rounded)
        ir.convenience.replace_all_uses_with(result, rounded.outputs[0], replace_graph_outputs=True)
        rounded.replace_input_with(0, result)


def _cast(value: ir.Value, dtype: ir.DataType, like: ir.Node) -> ir.Node:
    """Return a `Cast` node with the metadata, and so the module, of another node."""
    cast = ir.node("Cast", [value], {"to": dtype})
    cast.metadata_props.update(like.metadata_props)
    cast.outputs[0].shape, cast.outputs[0].dtype = value.shape, dtype
    return cast
