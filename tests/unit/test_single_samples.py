"""A graph that computes one sample at a time runs for each sample of a batch."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxport.errors import OptionError
from onnxport.runtime.graph import Graph, to_array
from onnxport.runtime.settings import RunSettings


def graph(directory: Path, *, mask: bool) -> Graph:
    """Write a graph that returns the indices of positive values, and whether there is one, for one sample."""
    nodes = [
        helper.make_node("Greater", ["x", "zero"], ["positive"]),
        helper.make_node("NonZero", ["positive"], ["found"]),
        helper.make_node("Slice", ["found", "one", "two", "zero_axis"], ["indices"]),
        helper.make_node("ConstantOfShape", ["shape"], ["mask"]),
        helper.make_node("Shape", ["indices"], ["shape"]),
    ]
    nodes[3], nodes[4] = nodes[4], nodes[3]
    constants = {"zero": np.float32(0), "one": np.array([1]), "two": np.array([2]), "zero_axis": np.array([0])}
    outputs = [helper.make_tensor_value_info("indices", TensorProto.INT64, [1, "n"])]
    if mask:
        outputs.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, "n"]))
    built = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "size"])],
        outputs,
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    file = directory / "g.onnx"
    file.write_bytes(
        helper.make_model(built, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    )
    return Graph(file, RunSettings())


def run(loaded: Graph, *samples: list[float]) -> dict[str, list[object]]:
    found = {name: to_array(value) for name, value in loaded.run({"x": np.array(samples, dtype="float32")}).items()}
    gc.collect()  # the arrays own their memory, or keep its owner
    return {name: array.tolist() for name, array in found.items()}


def test_results_are_concatenated(tmp_path: Path) -> None:
    assert run(graph(tmp_path, mask=False), [1, -1, 1], [-1, 2, 2])["indices"] == [[0, 2], [1, 2]]


def test_one_sample(tmp_path: Path) -> None:
    assert run(graph(tmp_path, mask=False), [1, -1, 1])["indices"] == [[0, 2]]


def test_shorter_results_are_padded_if_there_is_a_mask(tmp_path: Path) -> None:
    found = run(graph(tmp_path, mask=True), [-1, -1, 1], [1, 2, 2])
    assert found["indices"] == [[2, 0, 0], [0, 1, 2]]


def test_results_of_different_sizes_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"batches of 1, and their shapes of indices differ \(\[1\], \[3\]\)"):
        run(graph(tmp_path, mask=False), [-1, -1, 1], [1, 2, 2])
