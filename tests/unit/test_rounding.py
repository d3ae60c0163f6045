"""Bfloat16 arithmetic of a float32 model, and operators without bfloat16, are computed in float32, and rounded."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from onnxport.passes.rounding import RoundAfterwardsPass
from onnxport.weights.parameters import ParameterTensor


def product(
    operator: str = "Mul", operands: int = 2, *, typed: bool = True, parameter: ir.DataType = ir.DataType.FLOAT
) -> ir.Model:
    """Return a graph that squares its input, or applies another operator, in bfloat16."""
    source = ir.Value(name="x", shape=ir.Shape(["n"]), type=ir.TensorType(ir.DataType.FLOAT))
    narrow = ir.node("Cast", [source], {"to": ir.DataType.BFLOAT16})
    narrow.outputs[0].dtype = ir.DataType.BFLOAT16
    square = ir.node(operator, [narrow.outputs[0]] * operands)
    square.outputs[0].dtype = ir.DataType.BFLOAT16 if typed else None
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


@pytest.mark.parametrize("parameter", [ir.DataType.FLOAT, ir.DataType.BFLOAT16])
def test_operators_that_the_opset_has_without_bfloat16_are_rounded_as_in_torch(parameter: ir.DataType) -> None:
    model = product("Softplus", 1, typed=False, parameter=parameter)
    assert RoundAfterwardsPass()(model).modified
    del model.graph.initializers["weight"]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    values = np.linspace(-3, 30, 1000, dtype=np.float32)
    (found,) = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, {"x": values})
    wanted = torch.nn.functional.softplus(torch.from_numpy(values).bfloat16(), threshold=100).float()
    # one rounding step: exp and log differ in the last bit
    np.testing.assert_allclose(found, wanted.numpy(), rtol=2**-8)


def test_a_bfloat16_model_is_unchanged() -> None:
    assert not RoundAfterwardsPass()(product(parameter=ir.DataType.BFLOAT16)).modified
