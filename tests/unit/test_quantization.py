"""Quantized matrices: what ONNX Runtime's operators compute of them, their error, and that each is computed once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxport.weights.expressions import NO_FILES, InMemory
from onnxport.weights.grids import ZeroPoints, grid_of
from onnxport.weights.quantization import BlockScheme, Nf4Scheme, RowScheme, Scheme, quantized

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
    tensors = {name: getattr(expression, name).evaluate(NO_FILES) for name in scheme.parts}
    return tensors, expression.evaluate(NO_FILES)


@pytest.mark.parametrize("columns", [COLUMNS, 80])
@pytest.mark.parametrize("points", ["none", "integer"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_onnx_runtime_multiplies_with_the_dequantized_matrix(bits: int, points: ZeroPoints, columns: int) -> None:
    tensors, expected = parts_of(BlockScheme(bits, 32, points), columns)
    attributes = {"K": columns, "N": ROWS, "bits": bits, "block_size": 32}
    node = helper.make_node("MatMulNBits", ["x", *tensors], ["y"], domain="com.microsoft", **attributes)
    x = np.random.default_rng(1).standard_normal((2, 3, columns)).astype(np.float32)
    np.testing.assert_allclose(run(node, tensors, x), x @ expected.T, atol=1e-5)


@pytest.mark.parametrize("points", ["none", "integer"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_onnx_runtime_looks_up_rows_of_the_dequantized_matrix(bits: int, points: ZeroPoints) -> None:
    tensors, expected = parts_of(BlockScheme(bits, 32, points))
    tensors["values"] = tensors["values"].reshape(ROWS, -1)
    others = [name for name in tensors if name != "values"]
    attributes = {"gather_axis": 0, "quantize_axis": 1, "bits": bits, "block_size": 32}
    inputs = ["values", "x", *others]
    node = helper.make_node("GatherBlockQuantized", inputs, ["y"], domain="com.microsoft", **attributes)
    ids = np.array([[3, 0, 47]], np.int64)
    np.testing.assert_allclose(run(node, tensors, ids), expected[ids], atol=1e-6)


def test_onnx_runtime_multiplies_with_nf4() -> None:
    values = matrix(128)
    expression = quantized(InMemory(values), Nf4Scheme())
    tensors = {name: getattr(expression, name).evaluate(NO_FILES) for name in ("values", "scales")}
    attributes = {"K": 128, "N": ROWS, "block_size": 64, "quant_type": 1}
    node = helper.make_node("MatMulBnb4", ["x", *tensors], ["y"], domain="com.microsoft", **attributes)
    x = np.random.default_rng(1).standard_normal((2, 3, 128)).astype(np.float32)
    meant = expression.evaluate(NO_FILES)
    np.testing.assert_allclose(run(node, tensors, x), x @ meant.T, atol=1e-5)
    assert np.sqrt(((meant - values) ** 2).mean()) / values.std() < 0.1


@pytest.mark.parametrize(
    ("scheme", "most"),
    [
        (BlockScheme(4, 32), 0.09),
        (BlockScheme(4, 32, "integer"), 0.085),
        (BlockScheme(8, 32), 0.006),
        (RowScheme(), 0.02),
    ],
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
@pytest.mark.parametrize("scheme", [BlockScheme(4, 32), BlockScheme(4, 32, "integer"), RowScheme()])
def test_constant_blocks_are_exact(scheme: Scheme, value: float) -> None:
    values = np.full((2, 64), value, np.float32)
    np.testing.assert_allclose(quantized(InMemory(values), scheme).evaluate(NO_FILES), values, rtol=1e-6)


def test_a_matrix_is_quantized_once_for_all_of_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[tuple[int, ...]] = []
    original = BlockScheme.quantize

    def quantize(scheme: BlockScheme, values: np.ndarray, *settings: Any) -> object:
        computed.append(values.shape)
        return original(scheme, values, *settings)

    monkeypatch.setattr(BlockScheme, "quantize", quantize)
    expression = quantized(InMemory(matrix()), BlockScheme(4, 32, "integer"))
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


def on_grid(bits: int, size: int, points: ZeroPoints, scale: float = 0.01) -> np.ndarray:
    """Return a matrix as a loader dequantizes it: integers of a few bits, and half-precision scales."""
    generator = np.random.default_rng(2)
    levels = generator.integers(0, 1 << bits, (ROWS, 256 // size, size)).astype(np.float32)
    scales = (generator.random((ROWS, 256 // size, 1)) * scale + scale).astype(np.float16).astype(np.float32)
    zeros = np.full(scales.shape, 1 << (bits - 1), np.float32)
    if points == "integer":
        zeros = generator.integers(0, 1 << bits, scales.shape).astype(np.float32)
    if points == "float":
        return (levels * scales + (generator.random(scales.shape) * -0.1).astype(np.float16)).reshape(ROWS, -1)
    return ((levels - zeros) * scales).reshape(ROWS, -1)


@pytest.mark.parametrize(
    ("bits", "size", "points"),
    [(4, 32, "none"), (4, 128, "none"), (4, 128, "integer"), (4, 32, "float"), (8, 32, "none"), (2, 64, "none")],
)
def test_dequantized_weights_get_their_integers_back(bits: int, size: int, points: ZeroPoints) -> None:
    values = on_grid(bits, size, points)
    grid = grid_of(values)
    assert grid is not None
    assert (grid.bits, grid.block_size, grid.zero_points) == (bits, size, points)
    again = quantized(InMemory(values), BlockScheme(bits, size, points, on_grid=True)).evaluate(NO_FILES)
    np.testing.assert_allclose(again, values, atol=2e-6 * np.abs(values).max())


def test_weights_that_werent_quantized_have_no_grid() -> None:
    assert grid_of(matrix()) is None
