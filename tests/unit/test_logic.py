"""A `Where` of booleans becomes logic that ONNX Runtime has kernels for."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import onnxruntime

from onnxport.passes.logic import ChooseByLogicPass


def test_booleans_are_chosen_by_logic() -> None:
    values = [
        ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.BOOL))
        for name, shape in (("condition", [8, 1]), ("a", [8, 1]), ("b", [8, 1]))
    ]
    where = ir.node("Where", values)
    where.outputs[0].name = "chosen"
    where.outputs[0].dtype, where.outputs[0].shape = ir.DataType.BOOL, ir.Shape([8, 1])
    graph = ir.Graph(values, where.outputs, nodes=[where], opset_imports={"": 20}, name="g")
    model = ir.Model(graph, ir_version=10)
    assert ChooseByLogicPass()(model).modified
    assert [output.name for output in model.graph.outputs] == ["chosen"]
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    condition, a, b = (
        np.array(column)[:, None] for column in zip(*itertools.product([False, True], repeat=3), strict=True)
    )
    (found,) = session.run(None, {"condition": condition, "a": a, "b": b})
    np.testing.assert_array_equal(found, np.where(condition, a, b))
    assert not ChooseByLogicPass()(model).modified
