"""The cleanup removes nodes without effect, and no others."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxport.passes.cleanup import CleanUpPass


def adding(operator: str, constant_value: float) -> ir.Model:
    """Return a graph that adds a constant to its input, or multiplies by it."""
    source = ir.Value(name="x", shape=ir.Shape(["n"]), type=ir.TensorType(ir.DataType.FLOAT))
    constant = ir.Value(name="constant_value", const_value=ir.tensor(np.array(constant_value, np.float32)))
    node = ir.node(operator, [source, constant])
    node.outputs[0].name, node.outputs[0].dtype, node.outputs[0].shape = "y", ir.DataType.FLOAT, source.shape
    graph = ir.Graph([source], node.outputs, nodes=[node], opset_imports={"": 20}, name="adding")
    graph.register_initializer(constant)
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize(
    ("operator", "constant_value", "expected"),
    [("Add", 0.0, "Identity"), ("Add", 1e-8, "Add"), ("Mul", 1.0, "Identity"), ("Mul", 1.000005, "Mul")],
)
def test_only_operations_with_neutral_constants_are_removed(
    operator: str, constant_value: float, expected: str
) -> None:
    model = adding(operator, constant_value)
    CleanUpPass()(model)
    assert [node.op_type for node in model.graph] == [expected]
