"""Transposes in 16 bits before products with a weight, which ONNX Runtime crashes on, come after them."""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

from onnxport.passes.transposed_products import TransposedProductPass

WEIGHT = np.arange(32, dtype=np.float32).reshape(8, 4) / 32


def graph(shape: str, axes: list[int], dtype: str, *, cast: bool = False) -> ir.Model:
    """Return a graph y = Transpose(x) @ w, where w has the type of x, or float if x is cast."""
    kind, left = ("float", "c") if cast else (dtype, "t")
    text = f"""
<ir_version: 10, opset_import: ["": 20]>
g ({dtype}[{shape}] x, {kind}[8, 4] w) => ({kind}[{", ".join("?" * len(axes))}] y) {{
    t = Transpose<perm = {axes}>(x)
    {"c = Cast<to = 1>(t)" if cast else ""}
    y = MatMul({left}, w)
}}"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    weight = model.graph.inputs.pop()
    weight.const_value = ir.tensor(WEIGHT.astype(np.float32 if kind == "float" else np.float16), name="w")
    model.graph.register_initializer(weight)
    return model


@pytest.mark.parametrize("cast", [False, True])
@pytest.mark.parametrize(("shape", "axes"), [("A, B, 8", [1, 0, 2]), ("A, B, C, 8", [1, 2, 0, 3])])
def test_onnx_runtime_loads_the_graph(shape: str, axes: list[int], *, cast: bool) -> None:
    model = graph(shape, axes, "float16", cast=cast)
    assert TransposedProductPass()(model).modified
    assert [node.op_type for node in model.graph] == [*(["Cast"] if cast else []), "MatMul", "Transpose"]
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 8)[-len(axes) :]).astype(np.float16)
    (found,) = session.run(None, {"x": x})
    np.testing.assert_allclose(found, x.transpose(axes).astype(np.float32) @ WEIGHT, atol=1e-2)


@pytest.mark.parametrize(
    ("shape", "axes", "dtype"),
    [("A, B, 8", [1, 0, 2], "float"), ("A, B, 8", [0, 1, 2], "float16"), ("A, 8, B", [0, 2, 1], "float16")],
)
def test_other_transposes_stay(shape: str, axes: list[int], dtype: str) -> None:
    model = graph(shape, axes, dtype)
    assert not TransposedProductPass()(model).modified
    onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
