"""Plans of graphs: files, offsets and order of tensors, and which of them can be linked."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxport.errors import OptionError, OutputError
from onnxport.options import ExportOptions
from onnxport.weights import building
from onnxport.weights.expressions import ByteRange, InMemory, Stored
from onnxport.writing.planning import LARGE_TENSOR, PAGE, plan_graph
from tests.unit.weights_files import Array, graph

ALWAYS = ExportOptions(external_data="always")
LINK = ExportOptions(weights="link")


class UnusedReader:
    """A reader that must not be used."""

    def read(self, where: ByteRange, /) -> Array:
        raise AssertionError(f"a plan reads {where}")


def stored(name: str, *shape: int, begin: int, file: str = "model.safetensors") -> Stored:
    return Stored(file, name, ir.DataType.FLOAT, shape, begin, begin + 4 * int(np.prod(shape)))


def test_tensors_are_page_aligned_in_the_order_of_the_checkpoint() -> None:
    a, b, c = (stored(name, 300, 100, begin=begin) for name, begin in (("a", 500_000), ("b", 96), ("c", 200_000)))
    model = graph({"constant": np.zeros(2000, np.float32), "a": a, "b": b, "c": c}, UnusedReader())
    plan = plan_graph(model, "model.onnx", ALWAYS)
    assert [tensor.name for tensor in plan.tensors] == ["b", "c", "a", "constant"]
    assert all(tensor.offset is not None and tensor.offset % PAGE == 0 for tensor in plan.tensors[:3])
    assert [tensor.transfer for tensor in plan.tensors] == ["copy", "copy", "copy", "memory"]
    last = plan.tensors[-1]
    assert last.offset is not None and plan.data_bytes == last.offset + last.nbytes
    assert plan.files == (("model.onnx", None), ("model.onnx_data", plan.data_bytes))
    assert plan.bytes_of("copy") == 3 * 120_000


def test_tensors_never_overlap_and_padding_is_small() -> None:
    random = np.random.default_rng(0)
    tensors, begin = {}, 0
    for index, rows in enumerate(random.integers(1, 400, 200)):
        tensors[f"w{index}"] = stored(f"w{index}", int(rows), 129, begin=begin)
        begin = tensors[f"w{index}"].end
    plan = plan_graph(graph(tensors, UnusedReader()), "model.onnx", ALWAYS)
    end = 0
    for tensor in plan.tensors:
        assert tensor.offset is not None and tensor.offset >= end
        end = tensor.offset + tensor.nbytes
    assert plan.data_bytes - sum(tensor.nbytes for tensor in plan.tensors) < plan.data_bytes * PAGE / LARGE_TENSOR


def test_small_tensors_stay_in_the_graph() -> None:
    model = graph({"small": stored("s", 256, begin=0), "large": stored("l", 257, begin=1024)}, UnusedReader())
    assert [tensor.name for tensor in plan_graph(model, "m.onnx", ALWAYS).tensors] == ["large"]
    only_small = graph({"small": stored("s", 256, begin=0)}, UnusedReader())
    assert plan_graph(only_small, "m.onnx", ALWAYS).files == (("m.onnx", None),)


def test_weights_beyond_the_protobuf_limit_are_external_data() -> None:
    below = graph({"w": stored("w", 1 << 20, 400, begin=0)}, UnusedReader())
    above = graph({"w": stored("w", 1 << 20, 500, begin=0)}, UnusedReader())
    assert plan_graph(below, "m.onnx", ExportOptions()).data_file is None
    assert plan_graph(above, "m.onnx", ExportOptions()).data_file == "m.onnx_data"
    assert plan_graph(below, "m.onnx", ExportOptions()).tensors[0].offset is None


def test_equal_expressions_are_written_once() -> None:
    model = graph({"a": stored("w", 500, begin=0), "b": stored("w", 500, begin=0)}, UnusedReader())
    plan = plan_graph(model, "m.onnx", ALWAYS)
    assert [tensor.offset for tensor in plan.tensors] == [0, 0]
    assert plan.data_bytes == 2000


def test_linked_tensors_refer_to_the_checkpoints_files() -> None:
    a, b = stored("a", 500, 10, begin=100), stored("b", 30, 10, begin=96, file="model-2.safetensors")
    rows = building.cut(stored("c", 40, 500, begin=40_000), 0, 2, 4)
    turned = building.transpose(stored("d", 20, 15, begin=200_000), [1, 0])
    plan = plan_graph(graph({"a": a, "b": b, "rows": rows, "turned": turned}, UnusedReader()), "m.onnx", LINK)
    assert {(tensor.name, tensor.file, tensor.offset, tensor.transfer) for tensor in plan.tensors} == {
        ("a", "model.safetensors", 100, "link"),
        ("b", "model-2.safetensors", 96, "link"),
        ("rows", "model.safetensors", 44_000, "link"),
        ("turned", "m.onnx_data", 0, "convert"),
    }
    assert plan.links == (("model-2.safetensors", "model-2.safetensors"), ("model.safetensors", "model.safetensors"))
    assert ("model.safetensors", 0) in plan.files


def test_an_error_names_what_prevents_linking() -> None:
    whole = stored("w", 500, 10, begin=0)
    cases = {
        "which is FLOAT in the checkpoint and FLOAT16 with --dtype fp16": building.cast(whole, ir.DataType.FLOAT16),
        r"which is computed from 2 tensors \(Concatenate\)": building.concatenate([whole, whole], 1),
        "which isn't in a safetensors file": InMemory(np.zeros((500, 10), np.float32)),
    }
    for message, tensors in cases.items():
        with pytest.raises(OptionError, match=f"--weights link: .*the largest is w, {message}"):
            plan_graph(graph({"w": tensors}, UnusedReader()), "m.onnx", ExportOptions(weights="link", dtype="fp16"))


def test_an_unaligned_tensor_is_copied_not_linked() -> None:
    odd, even = stored("odd", 300, begin=102), stored("even", 5000, begin=2000)
    plan = plan_graph(graph({"odd": odd, "even": even}, UnusedReader()), "m.onnx", LINK)
    assert {tensor.name: tensor.transfer for tensor in plan.tensors} == {"odd": "copy", "even": "link"}


def test_two_files_under_one_name_are_an_error() -> None:
    tensors = {name: stored(name, 500, begin=0, file=f"{name}/model.safetensors") for name in ("a", "b")}
    with pytest.raises(OutputError, match=r"both be linked as model.safetensors"):
        plan_graph(graph(tensors, UnusedReader()), "m.onnx", LINK)
