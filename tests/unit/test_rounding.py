"""Arithmetic in bfloat16 inside a float32 model becomes arithmetic in float32, rounded afterwards."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch

from onnxport.passes.rounding import RoundAfterwardsPass
from onnxport.weights.parameters import ParameterTensor


def product(*, parameter: ir.DataType = ir.DataType.FLOAT) -> ir.Model:
    """Return a graph that squares its input in bfloat16."""
    source = ir.Value(name="x", shape=ir.Shape(["n"]), type=ir.TensorType(ir.DataType.FLOAT))
    narrow = ir.node("Cast", [source], {"to": ir.DataType.BFLOAT16})
    narrow.outputs[0].dtype = ir.DataType.BFLOAT16
    square = ir.node("Mul", [narrow.outputs[0], narrow.outputs[0]])
    square.outputs[0].dtype = ir.DataType.BFLOAT16
    wide = ir.node("Cast", [square.outputs[0]], {"to": ir.DataType.FLOAT})
    wide.outputs[0].name, wide.outputs[0].dtype, wide.outputs[0].shape = "y", ir.DataType.FLOAT, source.shape
    graph = ir.Graph([source], wide.outputs, nodes=[narrow, square, wide], opset_imports={"": 20}, name="product")
    weight = ir.Value(name="weight", const_value=ParameterTensor("weight", parameter, (1,)))
    graph.register_initializer(weight)
    return ir.Model(graph, ir_version=10)


def test_results_are_rounded_as_in_torch() -> None:
    model = product()
    assert RoundAfterwardsPass()(model).modified
    del model.graph.initializers["weight"]
    values = np.linspace(-3, 300, 1000, dtype=np.float32)
    (found,) = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, {"x": values})
    narrow = torch.from_numpy(values).bfloat16()
    np.testing.assert_array_equal(found, (narrow * narrow).float().numpy())


def test_a_bfloat16_model_is_unchanged() -> None:
    assert not RoundAfterwardsPass()(product(parameter=ir.DataType.BFLOAT16)).modified
