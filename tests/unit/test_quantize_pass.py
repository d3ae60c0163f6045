"""Where the pass that quantizes matrices finds them in a graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from onnxport.options import Dtype, QuantizeOptions
from onnxport.passes.quantization_plan import QuantizedMatrix
from onnxport.passes.quantize import QuantizePass
from onnxport.runtime.exact import comparable_form
from onnxport.weights.expressions import NO_FILES, InMemory
from onnxport.weights.parameters import ParameterTensor, substituted
from onnxport.weights.precision import precisions_of
from onnxport.weights.quantization import quantized

SIZE = 32


def recurrent() -> ir.Model:
    """Return a graph that multiplies with a weight, before a loop and in it: y[t] = x[t] @ w @ w."""
    tensor_type, shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["time", "batch", SIZE])
    x = ir.Value(name="x", shape=shape, type=tensor_type)
    tensor = ParameterTensor("layer.weight", ir.DataType.FLOAT, (SIZE, SIZE))
    parameter = ir.Value(name="layer.weight", shape=tensor.shape, type=tensor_type, const_value=tensor)
    first = ir.node("MatMul", [x, parameter])
    first.outputs[0].name, first.outputs[0].shape, first.outputs[0].type = "first", shape, tensor_type
    row = ir.Value(name="row", shape=ir.Shape(["batch", SIZE]), type=tensor_type)
    second = ir.node("MatMul", [row, parameter])
    second.outputs[0].name, second.outputs[0].shape, second.outputs[0].type = "second", row.shape, tensor_type
    body = ir.Graph([row], second.outputs, nodes=[second], name="body")
    attributes = {"body": ir.AttrGraph("body", body), "num_scan_inputs": ir.AttrInt64("num_scan_inputs", 1)}
    loop = ir.Node("", "Scan", first.outputs, attributes.values())
    loop.outputs[0].name, loop.outputs[0].shape, loop.outputs[0].type = "y", shape, tensor_type
    graph = ir.Graph(
        [x], loop.outputs, nodes=[first, loop], initializers=[parameter], opset_imports={"": 20}, name="graph"
    )
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("dtype", ["q4", "q8", "uint8"])
def test_matrices_in_the_body_of_a_loop_are_quantized(dtype: Dtype, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((SIZE, SIZE)).astype(np.float32)
    (precision,) = precisions_of((dtype,), QuantizeOptions(), is_quantized=False)
    assert precision.scheme is not None
    model = recurrent()
    QuantizePass({"layer.weight": QuantizedMatrix(precision.scheme, by_columns=True)}, "", precision)(model)
    loop = model.graph[-1]
    body = loop.attributes["body"].as_graph()
    for nodes in (model.graph, body):
        assert "MatMul" not in {node.op_type for node in nodes}
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ParameterTensor):
            expression = substituted(value.const_value.expression, lambda _: InMemory(weight))
            value.const_value = ir.tensor(expression.evaluate(NO_FILES), name=value.name)
    ir.save(model, tmp_path / "model.onnx")
    x = generator.standard_normal((3, 2, SIZE)).astype(np.float32)
    dequantized = quantized(InMemory(weight.T), precision.scheme).evaluate(NO_FILES).T
    expected = x @ dequantized @ dequantized
    rounded = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, {"x": x})[0]
    np.testing.assert_allclose(rounded, expected, atol=0.05 * np.abs(expected).max())
    exact = comparable_form(tmp_path / "model.onnx", onnxruntime.SessionOptions())
    (found,) = onnxruntime.InferenceSession(exact).run(None, {"x": x})
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
