"""Written graphs: read by onnx, onnx_ir and ONNX Runtime, written in bounded memory, and errors during writing."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from onnxport.binding.bind import Binding
from onnxport.binding.bound_graphs import BoundTensor, bind_graph
from onnxport.bundles.output import staged
from onnxport.checkpoint.reading import Reader
from onnxport.errors import CheckpointError, CorruptCheckpointError, OutputError, WeightsMismatchError
from onnxport.options import ExportOptions
from onnxport.weights import building
from onnxport.weights.expressions import NO_FILES, Expression, InMemory
from onnxport.weights.parameters import ParameterTensor
from onnxport.weights.quantization import BlockScheme, quantized
from onnxport.writing import linking
from onnxport.writing.planning import plan_graph
from onnxport.writing.write import save_graph, write_graph
from tests.forked import run_code
from tests.unit.weights_files import Array, checkpoint, graph

RANDOM = np.random.default_rng(0)
LAYOUTS = {
    "inside": ExportOptions(),
    "beside": ExportOptions(external_data="always"),
    "linked": ExportOptions(weights="link"),
}


def normal(*shape: int) -> Array:
    return RANDOM.standard_normal(shape).astype(np.float32)


def sample(directory: Path) -> tuple[ir.Model, dict[str, Array], Reader]:
    """Return a bound graph with every type of tensor storage, and its values."""
    big, square, half = normal(700, 90), normal(40, 50), normal(60, 30).astype(ml_dtypes.bfloat16)
    inventory, reader = checkpoint(directory, a={"big": big, "square": square}, b={"half": half, "tiny": normal(3)})
    stored = inventory.tensors
    made: dict[str, Expression | Array] = {
        "big": stored["big"],
        "rows": building.cut(stored["big"], 0, 100, 300),
        "turned": building.transpose(stored["square"], [1, 0]),
        "cast": building.cast(stored["half"], ir.DataType.FLOAT),
        "tiny": stored["tiny"],
        "held": InMemory(normal(50, 60).T),
        "constant": normal(20, 30),
        "scalar": np.array(2.0, np.float32),
    }
    with Reader(directory, inventory.files) as own:
        values = {name: item.evaluate(own) if isinstance(item, Expression) else item for name, item in made.items()}
    return graph(made, reader), values, reader


def run(file: Path, values: Mapping[str, Array]) -> dict[str, Array]:
    """Run the graph that `weights_files.graph` makes on zeros: each output is an initializer."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    feeds = {f"{name}_in": np.zeros_like(value) for name, value in values.items()}
    return dict(zip(values, session.run([f"{name}_out" for name in values], feeds), strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_onnxruntime_and_onnx_ir_read_the_bound_values(layout: str, tmp_path: Path) -> None:
    model, values, reader = sample(tmp_path / "checkpoint")
    out = tmp_path / "out"
    out.mkdir()
    plan = plan_graph(model, "model.onnx", LAYOUTS[layout])
    with reader:
        files = write_graph(plan, model, out, reader)
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in files)
    assert {path.name: path.stat().st_size for path in files}.items() >= {
        name: size for name, size in plan.files if size
    }.items()
    for name, found in run(out / "model.onnx", values).items():
        np.testing.assert_array_equal(found, values[name], err_msg=name)
    assert isinstance(model.graph.initializers["big"].const_value, BoundTensor)


@pytest.mark.parametrize("layout", ["inside", "beside"])
def test_the_file_equals_that_of_onnx_ir(layout: str, tmp_path: Path) -> None:
    model, _, reader = sample(tmp_path / "checkpoint")
    model.metadata_props["made"] = "here"
    model.graph.doc_string = "a graph"
    with reader:
        write_graph(plan_graph(model, "ours.onnx", LAYOUTS[layout]), model, tmp_path, reader)
        ir.save(model, tmp_path / "theirs.onnx")
    ours, theirs = (onnx.load(str(tmp_path / name)) for name in ("ours.onnx", "theirs.onnx"))  # noqa: TID251
    onnx.checker.check_model(ours)
    found = {tensor.name: tensor for tensor in ours.graph.initializer}
    expected = {tensor.name: tensor for tensor in theirs.graph.initializer}
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(found[name]), onnx.numpy_helper.to_array(tensor))
        assert (list(found[name].dims), found[name].data_type) == (list(tensor.dims), tensor.data_type)
    for proto in (ours, theirs):
        del proto.graph.initializer[:]
    assert ours == theirs


def test_weights_in_memory_are_saved_without_a_checkpoint(tmp_path: Path) -> None:
    values = {"w": normal(300, 20), "bfloat": normal(30, 40).astype(ml_dtypes.bfloat16)}
    model = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 20}, name="g"), ir_version=10)
    for name, value in values.items():
        tensor = ir.tensor(value, name=name)
        model.graph.initializers.add(
            ir.Value(name=name, shape=ir.Shape(value.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        )
    assert save_graph(model, tmp_path / "m.onnx") == [tmp_path / "m.onnx"]
    for name, value in ir.load(tmp_path / "m.onnx").graph.initializers.items():
        assert value.const_value is not None
        np.testing.assert_array_equal(value.const_value.numpy(), values[name])


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    model, _, reader = sample(tmp_path / "checkpoint")
    seen: list[int] = []
    plan = plan_graph(model, "m.onnx", LAYOUTS["beside"])
    with reader:
        write_graph(plan, model, tmp_path, reader, seen.append)
    assert sum(seen) == sum(tensor.nbytes for tensor in plan.tensors)


def test_two_matrices_are_quantized_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scheme, both = BlockScheme(4, 32), threading.Barrier(2, timeout=60)
    matrices = {name: quantized(InMemory(normal(70, 64)), scheme) for name in ("first", "second")}
    expected = {name: matrix.values.evaluate(NO_FILES) for name, matrix in matrices.items()}
    quantize = BlockScheme.quantize

    def when_both_are(*arguments: Any) -> Any:
        both.wait()
        return quantize(*arguments)

    monkeypatch.setattr(BlockScheme, "quantize", when_both_are)
    made = {f"{name}_{part}": getattr(m, part) for name, m in matrices.items() for part in ("values", "scales")}
    save_graph(graph(made, NO_FILES), tmp_path / "m.onnx")
    for name, value in ir.load(tmp_path / "m.onnx").graph.initializers.items():
        assert value.const_value is not None
        if str(name).endswith("values"):
            np.testing.assert_array_equal(value.const_value.numpy(), expected[str(name).removesuffix("_values")])


def test_copying_without_copy_file_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(*_: object) -> int:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    model, _, reader = sample(tmp_path / "checkpoint")
    with reader:
        write_graph(plan_graph(model, "a.onnx", LAYOUTS["beside"]), model, tmp_path, reader)
        monkeypatch.setattr(os, "copy_file_range", cannot, raising=False)
        write_graph(plan_graph(model, "b.onnx", LAYOUTS["beside"]), model, tmp_path, reader)
    assert (tmp_path / "a.onnx_data").read_bytes() == (tmp_path / "b.onnx_data").read_bytes()


def test_a_linked_file_is_the_checkpoints_file(tmp_path: Path) -> None:
    model, _, reader = sample(tmp_path / "checkpoint")
    (tmp_path / "out").mkdir()
    with reader:
        write_graph(plan_graph(model, "m.onnx", LAYOUTS["linked"]), model, tmp_path / "out", reader)
    source, linked = tmp_path / "checkpoint" / "a.safetensors", tmp_path / "out" / "a.safetensors"
    assert source.samefile(linked) or source.read_bytes() == linked.read_bytes()


def test_a_link_through_a_symbolic_link_reaches_the_file(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"content")
    (tmp_path / "name").symlink_to(tmp_path / "blob")
    assert linking.link_file(tmp_path / "name", tmp_path / "linked") in ("reflink", "hard link")
    assert not (tmp_path / "linked").is_symlink()
    assert (tmp_path / "linked").read_bytes() == b"content"


def test_another_file_system_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    (tmp_path / "file").write_bytes(b"content")
    monkeypatch.setattr(linking, "_reflink", lambda *_: False)
    monkeypatch.setattr(os, "link", cannot)
    with pytest.raises(OutputError, match=r"can't be linked into .*: they are on different file systems"):
        linking.link_file(tmp_path / "file", tmp_path / "linked")


def test_a_full_disk_during_writing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, reader = sample(tmp_path / "checkpoint")
    write, count = os.pwrite, iter(range(1000))

    def full(*arguments: object) -> int:
        if next(count) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "pwrite", full)
    with (
        reader,
        pytest.raises(OutputError, match="deep/out can't be written: No space left on device; free some space"),
        staged(tmp_path / "deep" / "out") as stage,
    ):
        write_graph(plan_graph(model, "m.onnx", LAYOUTS["beside"]), model, stage, reader)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    assert isinstance(model.graph.initializers["big"].const_value, BoundTensor)


def test_a_limit_on_files_is_an_error(tmp_path: Path) -> None:
    """The system's limit, which also applies to copies in the kernel."""
    code = """
import resource, signal, sys
from pathlib import Path
from tests.unit.test_writing import LAYOUTS, sample
from onnxport.bundles.output import staged
from onnxport.errors import OutputError
from onnxport.writing.planning import plan_graph
from onnxport.writing.write import write_graph
directory = Path(sys.argv[1])
model, _, reader = sample(directory / "checkpoint")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with staged(directory / "out") as stage:
        write_graph(plan_graph(model, "m.onnx", LAYOUTS["beside"]), model, stage, reader)
except OutputError as error:
    print(error)
"""
    done = run_code(code, str(tmp_path))
    assert "out can't be written: File too large" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_that_changes_while_it_is_read_is_an_error(layout: str, tmp_path: Path) -> None:
    model, _, reader = sample(tmp_path / "checkpoint")
    changed = tmp_path / "checkpoint" / "a.safetensors"

    def change(_: int) -> None:
        os.utime(changed, ns=(0, 1))

    with reader, pytest.raises(CorruptCheckpointError, match="changed while it was read"):
        write_graph(plan_graph(model, "m.onnx", LAYOUTS[layout]), model, tmp_path, reader, change)


def test_a_shard_that_is_truncated_meanwhile_is_an_error(tmp_path: Path) -> None:
    model, _, reader = sample(tmp_path / "checkpoint")

    def cut(_: int) -> None:
        os.truncate(tmp_path / "checkpoint" / "a.safetensors", 5000)

    with reader, pytest.raises(CheckpointError, match=r"truncated|bytes, now it has"):
        write_graph(plan_graph(model, "m.onnx", LAYOUTS["beside"]), model, tmp_path, reader, cut)


def unbound(**parameters: tuple[ir.DataType, tuple[int, ...]]) -> ir.Model:
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 20}, name="g")
    for name, (dtype, shape) in parameters.items():
        tensor = ParameterTensor(name, dtype, shape)
        graph.initializers.add(ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(dtype), const_value=tensor))
    return ir.Model(graph, ir_version=10)


def test_parameters_are_bound_by_name_including_tied_ones(tmp_path: Path) -> None:
    weight = normal(40, 10)
    inventory, reader = checkpoint(tmp_path, a={"w": weight})
    binding = Binding({"embed": inventory.tensors["w"]}, {"head": "embed"})
    model = unbound(embed=(ir.DataType.FLOAT, (40, 10)), head=(ir.DataType.FLOAT, (40, 10)))
    bind_graph(model, binding, reader)
    with reader:
        for value in model.graph.initializers.values():
            assert value.const_value is not None
            np.testing.assert_array_equal(value.const_value.numpy(), weight)
    assert plan_graph(model, "m.onnx", LAYOUTS["beside"]).data_bytes == weight.nbytes


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ({"other": (ir.DataType.FLOAT, (40, 10))}, "'other' isn't one of the model's 1"),
        ({"w": (ir.DataType.FLOAT16, (40, 10))}, r"'w' is FLOAT16 \[40, 10\] in the graph, and FLOAT \[40, 10\]"),
        ({"w": (ir.DataType.FLOAT, (10, 40))}, r"\[10, 40\] in the graph, and FLOAT \[40, 10\] in the checkpoint"),
    ],
)
def test_a_parameter_that_does_not_fit_is_an_error(
    parameter: dict[str, tuple[ir.DataType, tuple[int, ...]]], message: str, tmp_path: Path
) -> None:
    inventory, reader = checkpoint(tmp_path, a={"w": normal(40, 10)})
    with pytest.raises(WeightsMismatchError, match=message):
        bind_graph(unbound(**parameter), Binding(inventory.tensors), reader)


def test_an_unbound_parameter_has_no_value() -> None:
    tensor = ParameterTensor("w", ir.DataType.BFLOAT16, (3, 4))
    assert (tensor.nbytes, tensor.size, tensor.dtype) == (24, 12, ir.DataType.BFLOAT16)
    for read in (tensor.numpy, tensor.tobytes, lambda: np.asarray(tensor)):
        with pytest.raises(TypeError, match=r"parameter 'w' \(BFLOAT16,\[3,4\]\) has no data"):
            read()


def test_memory_does_not_depend_on_the_weights(tmp_path: Path) -> None:
    """400 MB in a graph's file, half of them cast, take a hundredth of it in memory."""
    code = """
import resource, sys
from pathlib import Path
import onnx, onnx_ir as ir
from onnxport.options import ExportOptions
from onnxport.weights import building
from onnxport.writing.planning import plan_graph
from onnxport.checkpoint.reading import Reader
from onnxport.writing.write import write_graph
from onnxport.weights.expressions import Stored
from tests.unit.weights_files import graph
directory = Path(sys.argv[1])
with (directory / "f").open("wb") as file:
    file.truncate(300 << 20)
reader, made = Reader(directory, {}), {}
for index in range(10):
    begin = index * (20 << 20)
    made[f"w{index}"] = Stored("f", "", ir.DataType.FLOAT, (5, 1 << 20), begin, begin + (20 << 20))
    half = Stored("f", "", ir.DataType.BFLOAT16, (5, 1 << 20), begin, begin + (10 << 20))
    made[f"c{index}"] = building.cast(half, ir.DataType.FLOAT)
model = graph(made, reader)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_graph(plan_graph(model, "m.onnx", ExportOptions()), model, directory, reader)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = run_code(code, str(tmp_path))
    assert (tmp_path / "m.onnx").stat().st_size > 400 << 20
    assert int(done.stdout) < 30 << 10
