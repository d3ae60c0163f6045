"""Cleaning up drops what does nothing, and nothing else."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxport.passes.cleanup import CleanUpPass


def adding(operator: str, number: float) -> ir.Model:
    """Return a graph that adds a number to its input, or multiplies by it."""
    source = ir.Value(name="x", shape=ir.Shape(["n"]), type=ir.TensorType(ir.DataType.FLOAT))
    constant = ir.Value(name="number", const_value=ir.tensor(np.array(number, np.float32)))
    node = ir.node(operator, [source, constant])
    node.outputs[0].name, node.outputs[0].dtype, node.outputs[0].shape = "y", ir.DataType.FLOAT, source.shape
    graph = ir.Graph([source], node.outputs, nodes=[node], opset_imports={"": 20}, name="adding")
    graph.register_initializer(constant)
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize(
    ("operator", "number", "left"),
    [("Add", 0.0, "Identity"), ("Add", 1e-8, "Add"), ("Mul", 1.0, "Identity"), ("Mul", 1.000005, "Mul")],
)
def test_small_numbers_are_added_and_multiplied_by(operator: str, number: float, left: str) -> None:
    model = adding(operator, number)
    CleanUpPass()(model)
    assert [node.op_type for node in model.graph] == [left]
