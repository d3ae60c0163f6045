"""Inspecting a directory: facts of its graphs, without their weights, with or without a manifest."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxport import inspect
from onnxport.bundles.manifest import ComponentDescription, Manifest, TensorDescription
from onnxport.errors import CheckpointNotFoundError, CorruptCheckpointError


def save_graph(file: Path, *, external: str | None = None) -> None:
    """Save a graph with x @ w, a branch, and an operator of another domain."""
    weight = numpy_helper.from_array(np.ones((4, 5), dtype=np.float32), "w")
    if external:
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in {"location": external, "offset": "0", "length": "80"}.items():
            weight.external_data.add(key=key, value=value)
    branch = helper.make_graph(
        [helper.make_node("Identity", ["y"], ["z1"])], "b", [], [helper.make_value_info("z1", onnx.TypeProto())]
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch),
        helper.make_node("FastGelu", ["z"], ["out"], domain="com.microsoft"),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["batch_size", None, 4]),
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
    ]
    outputs = [helper.make_tensor_value_info("out", TensorProto.DOUBLE, ["batch_size", "a + b", 5])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [weight])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(helper.make_model(graph, opset_imports=opsets).SerializeToString())


def manifest_for(file: str) -> Manifest:
    component = ComponentDescription("decoder", file, (), 21, 20, 1, (), ())
    return Manifest("fill-mask", {"model": "m/m"}, {}, {}, (component,), {"status": "passed"})


def test_one_graph(tmp_path: Path) -> None:
    save_graph(tmp_path / "model.onnx")
    found = inspect(tmp_path / "model.onnx")
    assert (found.model, found.task, found.validation) == (None, None, None)
    (graph,) = found.graphs
    assert (graph.file, graph.opset, graph.nodes, graph.parameters) == ("model.onnx", 21, 5, 20)
    assert graph.operators == {"Identity": 2, "MatMul": 1, "If": 1, "com.microsoft::FastGelu": 1}
    assert graph.bytes == (tmp_path / "model.onnx").stat().st_size
    assert graph.inputs == (
        TensorDescription("x", "float16", ("batch_size", "?", 4)),
        TensorDescription("c", "bool", ()),
    )
    assert graph.outputs == (TensorDescription("out", "float64", ("batch_size", "a + b", 5)),)


def test_external_data_is_counted_and_not_read(tmp_path: Path) -> None:
    save_graph(tmp_path / "model.onnx", external="model.onnx_data")
    (tmp_path / "model.onnx_data").touch()
    os.truncate(tmp_path / "model.onnx_data", 80)
    (graph,) = inspect(tmp_path).graphs
    assert graph.external_data == ("model.onnx_data",)
    assert graph.parameters == 20
    (tmp_path / "model.onnx_data").unlink()
    with pytest.raises(CheckpointNotFoundError, match=r"model\.onnx_data"):
        inspect(tmp_path)


def test_the_source_of_a_manifest_is_shown(tmp_path: Path) -> None:
    save_graph(tmp_path / "model.onnx")
    save_graph(tmp_path / "onnx" / "decoder_model.onnx")
    (tmp_path / "onnxport.json").write_text(manifest_for("onnx/decoder_model.onnx").to_json())
    found = inspect(tmp_path)
    assert (found.model, found.task, found.validation) == ("m/m", "fill-mask", "passed")
    assert [(graph.file, graph.component) for graph in found.graphs] == [
        ("model.onnx", None),
        ("onnx/decoder_model.onnx", "decoder"),
    ]


def test_truncated_external_data(tmp_path: Path) -> None:
    save_graph(tmp_path / "model.onnx", external="model.onnx_data")
    (tmp_path / "model.onnx_data").write_bytes(bytes(79))
    with pytest.raises(
        CorruptCheckpointError, match=r"model\.onnx_data is truncated: it has 79 bytes.* ends at byte 80"
    ):
        inspect(tmp_path)


def test_nothing_to_inspect(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"no \.onnx file"):
        inspect(tmp_path)
    with pytest.raises(CheckpointNotFoundError, match="doesn't exist"):
        inspect(tmp_path / "missing")


@pytest.mark.parametrize("content", [b"", b"not a graph at all", b"\x00" * 64])
def test_files_that_are_no_onnx_models(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(CorruptCheckpointError, match=r"a\.onnx"):
        inspect(tmp_path)


def test_a_damaged_manifest(tmp_path: Path) -> None:
    save_graph(tmp_path / "model.onnx")
    (tmp_path / "onnxport.json").write_text("{")
    with pytest.raises(CorruptCheckpointError, match=r"onnxport\.json"):
        inspect(tmp_path)
