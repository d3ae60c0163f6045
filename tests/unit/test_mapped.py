"""Graphs that ONNX Runtime runs with memory-mapped weights."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxport.errors import ValidationError
from onnxport.validation.mapped import open_mapped
from onnxport.writing import protobuf
from onnxport.writing.protobuf import initializer_ranges, outline
from tests.forked import run_code

WEIGHT = np.random.default_rng(0).standard_normal((256, 128)).astype(np.float32)
BIAS = np.arange(128, dtype=np.float32)


def graph(*tensors: TensorProto, dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", dtype, ["batch", 256])
    y = helper.make_tensor_value_info("y", dtype, ["batch", 128])
    made = helper.make_graph(nodes, "g", [x], [y], list(tensors), doc_string="d")
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(made, opset_imports=opsets, ir_version=10, producer_name="p")
    model.metadata_props.add(key="k", value="v")
    return model


def written(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def run(file: Path, dtype: type = np.float32) -> np.ndarray:
    x = np.ones((2, 256), dtype)
    return open_mapped(file).run(None, {"x": x})[0]


def test_weights_in_the_graphs_file(tmp_path: Path) -> None:
    weight, bias = numpy_helper.from_array(WEIGHT, "weight"), numpy_helper.from_array(BIAS, "bias")
    file = written(tmp_path / "model.onnx", graph(weight, bias))
    model = onnx.ModelProto.FromString(outline(file))
    assert model.ByteSize() < 2000
    first, second = sorted(model.graph.initializer, key=lambda tensor: tensor.name)
    assert (first.name, first.raw_data) == ("bias", BIAS.tobytes())
    where = {entry.key: entry.value for entry in second.external_data}
    assert (second.name, where["location"], where["length"]) == ("weight", "model.onnx", str(WEIGHT.nbytes))
    assert file.read_bytes()[int(where["offset"]) :].startswith(WEIGHT.tobytes())
    assert initializer_ranges(file)["weight"] == (int(where["offset"]), WEIGHT.nbytes)
    assert initializer_ranges(file)["bias"][1] == BIAS.nbytes
    np.testing.assert_allclose(run(file), np.ones((2, 256)) @ WEIGHT + BIAS, rtol=1e-4)


def test_other_fields_are_unchanged(tmp_path: Path) -> None:
    weight, bias = numpy_helper.from_array(WEIGHT, "weight"), numpy_helper.from_array(BIAS, "bias")
    model = graph(weight, bias)
    made = onnx.ModelProto.FromString(outline(written(tmp_path / "model.onnx", model)))
    for message in (model, made):
        del message.graph.initializer[:]
    assert made == model


def test_weights_in_external_data(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"12345678" + WEIGHT.tobytes())
    weight = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=WEIGHT.shape)
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "data"), ("offset", "8"), ("length", str(WEIGHT.nbytes))):
        weight.external_data.add(key=key, value=value)
    file = written(tmp_path / "model.onnx", graph(weight, numpy_helper.from_array(BIAS, "bias")))
    np.testing.assert_allclose(run(file), np.ones((2, 256)) @ WEIGHT + BIAS, rtol=1e-4)


def test_values_in_other_fields_than_raw_data_are_not_mapped(tmp_path: Path) -> None:
    weight = helper.make_tensor("weight", TensorProto.FLOAT, WEIGHT.shape, WEIGHT.flatten().tolist())
    file = written(tmp_path / "model.onnx", graph(weight, numpy_helper.from_array(BIAS, "bias")))
    assert "weight" not in initializer_ranges(file)
    np.testing.assert_allclose(run(file), np.ones((2, 256)) @ WEIGHT + BIAS, rtol=1e-4)


def test_half_precision(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(WEIGHT.astype(np.float16), "weight")
    bias = numpy_helper.from_array(BIAS.astype(np.float16), "bias")
    file = written(tmp_path / "model.onnx", graph(weight, bias, dtype=TensorProto.FLOAT16))
    np.testing.assert_allclose(run(file, np.float16), np.ones((2, 256)) @ WEIGHT + BIAS, rtol=1e-2, atol=0.1)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
def test_a_damaged_graph_is_an_error(tmp_path: Path, share: float) -> None:
    weight, bias = numpy_helper.from_array(WEIGHT, "weight"), numpy_helper.from_array(BIAS, "bias")
    file = written(tmp_path / "model.onnx", graph(weight, bias))
    os.truncate(file, int(file.stat().st_size * share))
    with pytest.raises(ValidationError, match=r"can't load model\.onnx"):
        open_mapped(file)


MEASURED = """
import sys
from pathlib import Path
import numpy as np
from onnx import TensorProto, helper
from onnxport.validation.mapped import open_mapped

directory, side, count = Path(sys.argv[1]), 4096, 6
size = side * side * 4
with (directory / "data").open("wb") as file:
    file.truncate(count * size)
    for number in range(count):  # equal tensors would be packed once
        file.seek(number * size)
        file.write(bytes([number + 1]) * 64)
tensors, nodes = [], []
for number in range(count):
    tensor = TensorProto(name=f"w{number}", data_type=TensorProto.FLOAT, dims=(side, side))
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "data"), ("offset", str(number * size)), ("length", str(size))):
        tensor.external_data.add(key=key, value=value)
    tensors.append(tensor)
    nodes.append(helper.make_node("MatMul", [f"x{number}", f"w{number}"], [f"x{number + 1}"]))
x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", side]) for name in ("x0", f"x{count}"))
graph = helper.make_graph(nodes, "g", [x], [y], tensors)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
(directory / "model.onnx").write_bytes(model.SerializeToString())

def anonymous():
    lines = dict(line.split(":") for line in open("/proc/self/status"))
    return int(lines["RssAnon"].split()[0]) // 1024

import onnxruntime
before = anonymous()
session = {"mapped": open_mapped, "packed": onnxruntime.InferenceSession}[sys.argv[2]](directory / "model.onnx")
session.run(None, {"x0": np.zeros((2, side), np.float32)})
print(anonymous() - before)
"""


def test_weights_are_not_copied(tmp_path: Path) -> None:
    def growth(how: str) -> int:
        return int(run_code(MEASURED, str(tmp_path), how).stdout)

    assert growth("packed") > 300  # six matrices of 64 MiB, packed
    assert growth("mapped") < 60


def test_fields_of_every_wire_type(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes([0x08, 0x96, 0x01, 0x12, 2, 7, 7, 0x19, *range(8), 0x25, *range(4)]))
    with (tmp_path / "f").open("rb") as opened, protobuf.mmap.mmap(opened.fileno(), 0, access=1) as content:
        assert list(protobuf._fields(content, 0, len(content))) == [
            (1, 0, 1, 3),
            (2, 3, 5, 7),
            (3, 7, 8, 16),
            (4, 16, 17, 21),
        ]
