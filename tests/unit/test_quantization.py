"""Quantized matrices: what ONNX Runtime's operators compute of them, their error, and that each is computed once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxport.weights.expressions import NO_FILES, InMemory
from onnxport.weights.quantization import BlockScheme, RowScheme, Scheme, quantized

ROWS, COLUMNS = 48, 96


def matrix(columns: int = COLUMNS) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((ROWS, columns)).astype(np.float32) * 0.02


def run(node: onnx.NodeProto, tensors: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    kind = TensorProto.INT64 if x.dtype == np.int64 else TensorProto.FLOAT
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", kind, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def parts_of(scheme: BlockScheme, columns: int = COLUMNS) -> tuple[dict[str, np.ndarray], np.ndarray]:
    expression = quantized(InMemory(matrix(columns)), scheme)
    names = ("values", "scales", *(() if scheme.symmetric else ("zero_points",)))
    tensors = {name: getattr(expression, name).evaluate(NO_FILES) for name in names}
    return tensors, expression.evaluate(NO_FILES)


@pytest.mark.parametrize("columns", [COLUMNS, 80])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_onnx_runtime_multiplies_with_the_dequantized_matrix(bits: int, symmetric: bool, columns: int) -> None:
    tensors, expected = parts_of(BlockScheme(bits, 32, symmetric), columns)
    attributes = {"K": columns, "N": ROWS, "bits": bits, "block_size": 32}
    node = helper.make_node("MatMulNBits", ["x", *tensors], ["y"], domain="com.microsoft", **attributes)
    x = np.random.default_rng(1).standard_normal((2, 3, columns)).astype(np.float32)
    np.testing.assert_allclose(run(node, tensors, x), x @ expected.T, atol=1e-5)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_onnx_runtime_looks_up_rows_of_the_dequantized_matrix(bits: int, symmetric: bool) -> None:
    tensors, expected = parts_of(BlockScheme(bits, 32, symmetric))
    tensors["values"] = tensors["values"].reshape(ROWS, -1)
    others = [name for name in tensors if name != "values"]
    attributes = {"gather_axis": 0, "quantize_axis": 1, "bits": bits, "block_size": 32}
    inputs = ["values", "x", *others]
    node = helper.make_node("GatherBlockQuantized", inputs, ["y"], domain="com.microsoft", **attributes)
    ids = np.array([[3, 0, 47]], np.int64)
    np.testing.assert_allclose(run(node, tensors, ids), expected[ids], atol=1e-6)


@pytest.mark.parametrize(
    ("scheme", "most"),
    [(BlockScheme(4, 32), 0.09), (BlockScheme(4, 32, False), 0.085), (BlockScheme(8, 32), 0.006), (RowScheme(), 0.02)],
)
def test_the_error_is_that_of_the_bits(scheme: Scheme, most: float) -> None:
    values = matrix()
    difference = quantized(InMemory(values), scheme).evaluate(NO_FILES) - values
    assert np.sqrt((difference**2).mean()) / values.std() < most


def test_searched_scales_lose_less_than_rounding_to_nearest() -> None:
    values = matrix()
    blocks = values.reshape(-1, 32)
    largest = blocks[np.arange(len(blocks)), np.abs(blocks).argmax(1)]
    scales = (largest / -8)[:, None]
    nearest = np.clip(np.rint(blocks / scales), -8, 7) * scales
    searched = quantized(InMemory(values), BlockScheme(4, 32)).evaluate(NO_FILES).reshape(-1, 32)
    weights = np.sqrt((blocks**2).mean(1, keepdims=True)) + np.abs(blocks)
    assert (weights * (searched - blocks) ** 2).sum() < 0.9 * (weights * (nearest - blocks) ** 2).sum()


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5])
@pytest.mark.parametrize("scheme", [BlockScheme(4, 32), BlockScheme(4, 32, False), RowScheme()])
def test_constant_blocks_are_exact(scheme: Scheme, value: float) -> None:
    values = np.full((2, 64), value, np.float32)
    np.testing.assert_allclose(quantized(InMemory(values), scheme).evaluate(NO_FILES), values, rtol=1e-6)


def test_a_matrix_is_quantized_once_for_all_of_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[tuple[int, ...]] = []
    original = BlockScheme.quantize

    def quantize(scheme: BlockScheme, values: np.ndarray, dtype: np.dtype) -> object:  # type: ignore[type-arg]
        computed.append(values.shape)
        return original(scheme, values, dtype)

    monkeypatch.setattr(BlockScheme, "quantize", quantize)
    expression = quantized(InMemory(matrix()), BlockScheme(4, 32, False))
    with ThreadPoolExecutor(3) as pool:
        parts = list(pool.map(lambda part: part.evaluate(NO_FILES), expression.children))
    assert [part.shape for part in parts] == [(48, 3, 16), (48, 3), (48, 2)]
    assert computed == [(ROWS, COLUMNS)]


def test_half_precision_scales_are_those_that_values_are_rounded_with() -> None:
    values = matrix().astype(np.float16)
    expression = quantized(InMemory(values), BlockScheme(4, 32))
    assert (expression.scales.dtype, expression.dtype) == (ir.DataType.FLOAT16, ir.DataType.FLOAT16)
    difference = expression.evaluate(NO_FILES).astype(np.float32) - values
    assert np.sqrt((difference**2).mean()) / values.std() < 0.09
