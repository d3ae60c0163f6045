"""Linear layers that read the same value: which are packed, and what the packed matrix is bound to."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxport.fusions.packed_linear import WIDEST, PackedLinearPass
from onnxport.weights.expressions import Concatenate
from onnxport.weights.parameters import Parameter, ParameterTensor


def graph_of(*layers: tuple[str, int], then: str = "Identity") -> ir.Model:
    """Return a graph of linear layers of 32 inputs that read one value."""
    x = ir.Value(name="x", shape=ir.Shape(["batch", "tokens", 32]), type=ir.TensorType(ir.DataType.FLOAT))
    nodes, outputs, weights = [], [], []
    for name, features in layers:
        tensor = ParameterTensor(name, ir.DataType.FLOAT, (features, 32))
        weight = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        transpose = ir.node("Transpose", [weight], {"perm": [1, 0]})
        product = ir.node("MatMul", [x, transpose.outputs[0]])
        product.outputs[0].shape = ir.Shape(["batch", "tokens", features])
        after = ir.node(then, [product.outputs[0]])
        after.outputs[0].name = f"{name}_output"
        nodes += [transpose, product, after]
        outputs.append(after.outputs[0])
        weights.append(weight)
    graph = ir.Graph([x], outputs, nodes=nodes, initializers=weights, opset_imports={"": 20}, name="g")
    return ir.Model(graph, ir_version=10)


def products(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == "MatMul" and node.outputs[0].uses()]


def test_queries_keys_and_values_are_one_product() -> None:
    model = graph_of(("a.q.weight", 64), ("a.k.weight", 32), ("a.v.weight", 32))
    assert PackedLinearPass()(model).modified
    (product,) = products(model)
    transpose = product.inputs[1].producer()  # type: ignore[union-attr]
    tensor = transpose.inputs[0].const_value  # type: ignore[union-attr]
    assert isinstance(tensor, ParameterTensor)
    parts = tuple(
        Parameter(f"a.{name}.weight", ir.DataType.FLOAT, (n, 32)) for name, n in (("q", 64), ("k", 32), ("v", 32))
    )
    assert tensor.expression == Concatenate(0, parts)
    (split,) = [node for node in model.graph if node.op_type == "Split"]
    np.testing.assert_array_equal(split.inputs[1].const_value.numpy(), [64, 32, 32])  # type: ignore[union-attr]
    users = [next(iter(output.uses())).node.outputs[0].name for output in split.outputs]
    assert users == ["a.q.weight_output", "a.k.weight_output", "a.v.weight_output"]


def test_layers_of_several_modules_stay_apart() -> None:
    model = graph_of(("first.k.weight", 32), ("second.k.weight", 32))
    assert not PackedLinearPass()(model).modified


def test_the_head_of_a_gate_and_a_router_stay_apart() -> None:
    assert not PackedLinearPass()(graph_of(("a.up.weight", 64), ("a.gate.weight", 1))).modified
    assert not PackedLinearPass()(graph_of(("a.up.weight", 64), ("a.router.weight", 16), then="TopK")).modified


def test_a_wide_gate_and_its_factor_stay_apart_on_a_cpu() -> None:
    layers = (("a.gate.weight", 96), ("a.up.weight", 96))
    assert not PackedLinearPass(WIDEST)(graph_of(*layers)).modified
    assert PackedLinearPass()(graph_of(*layers)).modified
    assert PackedLinearPass(WIDEST)(graph_of(("a.q.weight", 64), ("a.k.weight", 32), ("a.v.weight", 32))).modified
