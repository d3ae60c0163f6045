"""A decoder computes the logits of as many last tokens as a client says, whatever form its head has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxport.layouts._logits import add_logits_to_keep

SIZE, VOCABULARY = 4, 7
WEIGHTS = np.random.default_rng(0).normal(size=(SIZE, VOCABULARY)).astype(np.float32)


def matmul() -> tuple[list[Any], dict[str, np.ndarray]]:
    nodes = [helper.make_node("MatMul", ["normed", "weights"], ["scores"])]
    nodes.append(helper.make_node("Mul", ["scores", "scale"], ["logits"]))
    return nodes, {"weights": WEIGHTS, "scale": np.float32(3)}


def gemm() -> tuple[list[Any], dict[str, np.ndarray]]:
    """A tied head as ONNX Runtime's weights want it: its shape is that of the token ids."""
    nodes = [
        helper.make_node("Reshape", ["normed", "flat"], ["rows"]),
        helper.make_node("Gemm", ["rows", "weights"], ["products"], transB=1),
        helper.make_node("Shape", ["input_ids"], ["sizes"]),
        helper.make_node("Concat", ["sizes", "vocabulary"], ["shape"], axis=0),
        helper.make_node("Reshape", ["products", "shape"], ["logits"]),
    ]
    return nodes, {"weights": WEIGHTS.T.copy(), "flat": np.array([-1, SIZE]), "vocabulary": np.array([VOCABULARY])}


def integers() -> tuple[list[Any], dict[str, np.ndarray]]:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["normed"], ["quantized", "step", "zero"]),
        helper.make_node("MatMulInteger", ["quantized", "weights", "zero"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["scores"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["step", "scale"], ["steps"]),
        helper.make_node("Mul", ["scores", "steps"], ["logits"]),
    ]
    return nodes, {"weights": (WEIGHTS * 40).astype(np.int8), "scale": np.float32(1 / 40)}


def no_head() -> tuple[list[Any], dict[str, np.ndarray]]:
    return [helper.make_node("Softmax", ["normed"], ["logits"])], {}


def save(file: Path, nodes: list[Any], weights: dict[str, Any], vocabulary: int) -> None:
    embedding = np.random.default_rng(1).normal(size=(VOCABULARY, SIZE)).astype(np.float32)
    first = [
        helper.make_node("Gather", ["embedding", "input_ids"], ["states"]),
        helper.make_node("Tanh", ["states"], ["normed"]),
    ]
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "sequence", vocabulary])]
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in {"embedding": embedding, **weights}.items()]
    graph = helper.make_graph([*first, *nodes], "g", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    file.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("head", [matmul, gemm, integers])
def test_the_last_logits_are_those_of_all(head: Any, tmp_path: Path) -> None:
    save(tmp_path / "model.onnx", *head(), VOCABULARY)
    ids = np.arange(12).reshape(2, 6) % VOCABULARY
    (expected,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, {"input_ids": ids})
    assert add_logits_to_keep(tmp_path / "model.onnx")
    onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for count in (0, 1, 4, 9):
        (found,) = session.run(None, {"input_ids": ids, "num_logits_to_keep": np.array(count)})
        # integers are scaled by the range of the tokens that are kept
        np.testing.assert_allclose(found, expected[:, -count:], atol=0.05 if head is integers else 1e-6)


def test_a_graph_without_a_known_head_is_unchanged(tmp_path: Path) -> None:
    save(tmp_path / "model.onnx", *no_head(), SIZE)
    before = (tmp_path / "model.onnx").read_bytes()
    assert not add_logits_to_keep(tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == before
