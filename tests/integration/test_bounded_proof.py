"""Validation within a memory limit has the same result, with weights on disk or with few layers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

import onnxport
from conformance.checkpoints import make_checkpoint
from onnxport.architectures.describe import describe
from onnxport.binding.bind import Binding, bind
from onnxport.binding.bound_graphs import bind_graph
from onnxport.checkpoint.checkpoint import open_checkpoint
from onnxport.checkpoint.reading import Reader
from onnxport.cli import main
from onnxport.description.examples import Examples
from onnxport.description.signature import signature_of
from onnxport.description.tasks import canonical_task
from onnxport.description.tolerances import Tolerance
from onnxport.errors import CorruptCheckpointError
from onnxport.loading.load import load_config, load_preprocessor
from onnxport.options import ExportOptions
from onnxport.validation import memory, on_demand
from onnxport.validation.digests import TensorDigests, compare_tensors, merged_digests
from onnxport.validation.memory import Strategy
from onnxport.validation.original import original_model
from onnxport.validation.prove import ProofRequest
from onnxport.validation.reduced import ReducedProof, at_reduced_depth, prove_reduced, select_layers
from onnxport.validation.report import ValidationReport, merged
from onnxport.weights.expressions import InMemory
from onnxport.weights.parameters import ParameterTensor
from onnxport.writing import protobuf
from onnxport.writing.planning import plan_graph
from onnxport.writing.write import write_graph

LITTLE_MEMORY = ExportOptions(memory=1000)
USED = {"32 tokens", "32 tokens, padded batch", "sentences", "image"}  # neither is tried with weights on disk


@pytest.fixture
def stream_tiny_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every tensor of a tiny model on disk, and cache none of them."""
    monkeypatch.setattr(on_demand, "SMALL", 0)
    monkeypatch.setattr(memory, "MARGIN", 0)
    monkeypatch.setattr(protobuf, "MAPPED_BYTES", 1025)  # ONNX Runtime's shape inference reads smaller ones


def exported(source: Path, output: Path, **options: Any) -> Path:
    onnxport.export(source, output, ExportOptions(validate="none", **options))
    return output


@pytest.mark.parametrize(
    ("model_type", "feature"),
    [
        ("bert", "masked-lm"),
        ("gpt2", "causal-lm-with-past"),
        pytest.param("t5", "seq2seq-lm", marks=pytest.mark.wide),
        ("vit", "image-classification"),
    ],
)
@pytest.mark.parametrize("external", ["auto", "always"])
@pytest.mark.usefixtures("stream_tiny_tensors")
def test_the_result_is_that_of_an_unbounded_validation(
    model_type: str, feature: str, external: Any, tmp_path: Path
) -> None:
    source = make_checkpoint(model_type, feature, tmp_path)
    output = exported(source, tmp_path / "out", external_data=external)
    whole, on_disk = onnxport.validate(output), onnxport.validate(output, options=LITTLE_MEMORY)
    assert (whole.status, on_disk.status) == ("passed", "passed")
    assert whole.note == ""
    assert "read from disk on demand" in on_disk.note
    compared = [case for case in whole.cases if case.name not in USED]
    assert [(case.name, case.sizes) for case in compared] == [(case.name, case.sizes) for case in on_disk.cases]
    for one, other in zip(compared, on_disk.cases, strict=True):
        assert [output.shape for output in one.outputs] == [output.shape for output in other.outputs]


@pytest.mark.usefixtures("stream_tiny_tensors")
@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_weights_are_cast_on_demand(bert: Path, tmp_path: Path, dtype: Any) -> None:
    output = exported(bert, tmp_path / "out", dtype=dtype)
    assert onnxport.validate(output, options=LITTLE_MEMORY).status == "passed"


@pytest.mark.usefixtures("stream_tiny_tensors")
def test_a_graph_that_differs_is_detected(gpt2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = exported(gpt2, tmp_path / "out", external_data="always")
    data = np.memmap(output / "model.onnx_data", np.float32, "r+")
    data[: data.size // 2] *= 1.5
    data.flush()
    assert onnxport.validate(output, options=LITTLE_MEMORY).status == "failed"
    assert main(["validate", str(output), "--memory", "1kB", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["status"] == "failed"


@pytest.mark.usefixtures("stream_tiny_tensors")
def test_a_checkpoint_that_changes_is_an_error(gpt2: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(gpt2, source)
    checkpoint = open_checkpoint(source, ExportOptions())
    with (
        pytest.raises(CorruptCheckpointError, match="changed while it was read"),
        original_model(checkpoint, GPT2LMHeadModel, ExportOptions(), Strategy("on disk")) as (model, _),
    ):
        model(torch.ones(1, 2, dtype=torch.int64))
        with (source / "model.safetensors").open("ab") as file:
            file.write(b"\0")


def test_formats_that_are_loaded_eagerly(gpt2: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(gpt2, source)
    state = GPT2LMHeadModel.from_pretrained(source).state_dict()
    (source / "model.safetensors").unlink()
    torch.save(state, source / "pytorch_model.bin")
    output = exported(source, tmp_path / "out")
    report = onnxport.validate(output, options=LITTLE_MEMORY)
    assert (report.status, report.note) == ("passed", "")


@pytest.fixture
def six_layers(tmp_path: Path) -> Path:
    """A GPT-2 with six layers, of which two are traced."""
    source = make_checkpoint("gpt2", "causal-lm-with-past", tmp_path)
    torch.manual_seed(1)
    GPT2LMHeadModel(GPT2Config.from_pretrained(source, n_layer=6)).save_pretrained(source)
    return source


@pytest.mark.usefixtures("stream_tiny_tensors")
@pytest.mark.parametrize(
    ("memory_given", "status", "cache"),
    [(10**9, "passed", False), (400_000, "passed", False), (1000, "partial", False), (1000, "partial", True)],
)
def test_an_export_with_different_memory_limits(
    six_layers: Path, tmp_path: Path, memory_given: int, status: str, cache: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONNXPORT_CACHE", str(tmp_path / "cache"))
    if cache:  # a validation with a cached blueprint
        exported(six_layers, tmp_path / "before")
    result = onnxport.export(six_layers, tmp_path / "out", ExportOptions(memory=memory_given, cache=cache))
    validation = result.manifest.validation
    assert validation["status"] == status
    names = {case["name"] for case in validation["cases"]}
    assert {"traced", "batch 1", "one token", "odd lengths", "padding", "no past", "long"} <= names
    assert ("32 tokens" in names) == (memory_given == 10**9), "the graphs generate if the weights fit into memory"
    assert validation["note"] == "" if memory_given == 10**9 else "may be used" in validation["note"]
    if status == "partial":
        assert "2 of 6 layers (transformer.h.0, transformer.h.1)" in validation["note"]
        assert {case["name"]: len(case["outputs"]) for case in validation["cases"]} == dict.fromkeys(names, 1 + 2 * 2)
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")) == []
    assert not list(tmp_path.glob(".*"))


@pytest.mark.usefixtures("stream_tiny_tensors")
@pytest.mark.parametrize("how", ["copy", "link"])
def test_linear_layers_are_transposed_in_both_graphs(tmp_path: Path, how: Any) -> None:
    source = make_checkpoint("bert", "masked-lm", tmp_path)
    torch.manual_seed(1)
    BertForMaskedLM(BertConfig.from_pretrained(source, num_hidden_layers=5)).save_pretrained(source)
    result = onnxport.export(source, tmp_path / "out", ExportOptions(memory=1000, weights=how))
    assert result.manifest.validation["status"] == "partial"
    assert "2 of 5 layers" in result.manifest.validation["note"]


@pytest.mark.usefixtures("stream_tiny_tensors")
def test_a_partial_validation_exits_with_0_and_a_note(
    six_layers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(six_layers), str(tmp_path / "out"), "--memory", "1kB", "--no-cache"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "validation: partial" in text
    assert "validation: passed" not in text
    assert "Not validated: the outputs of the full model" in text


@pytest.mark.wide
@pytest.mark.usefixtures("stream_tiny_tensors")
def test_without_stamping_no_layer_is_omitted(six_layers: Path, tmp_path: Path) -> None:
    result = onnxport.export(six_layers, tmp_path / "out", ExportOptions(memory=1000, stamping=False))
    assert result.manifest.validation["status"] == "passed"


@pytest.mark.usefixtures("stream_tiny_tensors")
def test_a_checkpoint_that_is_loaded_eagerly(six_layers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def eagerly(*_: Any) -> str:
        return "its loader looks at values"

    monkeypatch.setattr("onnxport.binding.bind._bind_lazily", eagerly)
    result = onnxport.export(six_layers, tmp_path / "out", ExportOptions(memory=1000, cache=False))
    assert result.manifest.validation["status"] == "passed"
    assert "the original's were in memory: its loader looks at values" in result.manifest.validation["note"]
    again = onnxport.validate(tmp_path / "out", options=LITTLE_MEMORY)
    assert again.note == result.manifest.validation["note"]


def validate_reduced(directory: Path, kept: tuple[int, ...]) -> tuple[ReducedProof, TensorDigests, Reader]:
    """Validate some layers of a GPT-2, with the graph of a model with as many layers."""
    source = make_checkpoint("gpt2", "causal-lm-with-past", directory / "five")
    config = GPT2Config.from_pretrained(source, n_layer=5)
    torch.manual_seed(1)
    GPT2LMHeadModel(config).save_pretrained(source)
    checkpoint = open_checkpoint(source, ExportOptions())
    config = load_config(checkpoint, ExportOptions())
    bound = bind(checkpoint, GPT2LMHeadModel, config, ExportOptions())
    short = load_config(checkpoint, ExportOptions())
    short.n_layer = len(kept)
    few = at_reduced_depth(bound.binding, {"transformer.h": kept})
    reader = Reader(checkpoint.directory, bound.binding.files)
    model = on_demand.read_on_demand(GPT2LMHeadModel(short).eval(), few, reader)

    real = {name: on_demand.as_tensor(expression, reader) for name, expression in few.expressions.items()}
    shutil.copytree(source, directory / "short")
    again = GPT2LMHeadModel(short)
    again.load_state_dict(real, strict=False)
    again.tie_weights()
    again.save_pretrained(directory / "short")
    exported(directory / "short", directory / "out")
    preprocessor = load_preprocessor(checkpoint, ExportOptions())
    (component,) = describe(model, canonical_task("text-generation-with-past"), preprocessor)
    examples = Examples(component.config, signature_of(component.config).today(), preprocessor)
    sizes = {"batch_size": 2, "sequence_length": 4, "past_sequence_length": 3}
    request = ProofRequest("model", directory / "out" / "model.onnx", model, examples, sizes)
    digests = compare_all(bound.binding, reader, directory)
    return ReducedProof(request, tuple(f"transformer.h.{index}" for index in kept), config.n_layer), digests, reader


def compare_all(binding: Binding, reader: Reader, directory: Path, spoil: str = "") -> TensorDigests:
    """Write a graph with all tensors, and compare them."""
    values = []
    for name, expression in binding.expressions.items():
        tensor = ParameterTensor(name, expression.dtype, expression.shape)
        values.append(ir.Value(name=name, const_value=tensor, shape=tensor.shape, type=ir.TensorType(expression.dtype)))
    graph = ir.Graph([], [], nodes=[], initializers=values, opset_imports={"": 20}, name="g")
    model = ir.Model(graph, ir_version=10)
    bind_graph(model, binding, reader)
    plan = plan_graph(model, "all.onnx", ExportOptions(external_data="always" if spoil else "auto"))
    write_graph(plan, model, directory, reader)
    if spoil:
        where = next(item for item in plan.tensors if item.name == spoil)
        with (directory / where.file).open("r+b") as file:
            file.seek(where.offset or 0)
            file.write(b"\1\2\3")
    return compare_tensors(plan, model, directory)


@pytest.mark.usefixtures("stream_tiny_tensors")
def test_few_layers_are_run_and_all_tensors_compared(tmp_path: Path) -> None:
    proof, digests, reader = validate_reduced(tmp_path, (1, 3))
    with reader:
        report = prove_reduced(proof, digests, "full", Tolerance(1e-5, 5e-4))
        assert report.status == "partial"
        assert report.failures == []
        assert {"traced", "batch 1", "odd lengths", "padding", "long"} <= {case.name for case in report.cases}
        for told in ("2 of 5 layers (transformer.h.1, transformer.h.3)", digests.sha256, "Not validated", "wasn't run"):
            assert told in report.note
        assert digests.tensors > 20
        other = at_reduced_depth(bound_again(proof, tmp_path), {"transformer.h": (1, 4)})
        on_demand.read_on_demand(proof.request.model, other, reader)
        wrong = prove_reduced(proof, digests, "quick", Tolerance(1e-5, 5e-4))
        assert wrong.status == "failed"


def bound_again(proof: ReducedProof, directory: Path) -> Binding:
    checkpoint = open_checkpoint(next((directory / "five").glob("gpt2*")), ExportOptions())
    return bind(checkpoint, GPT2LMHeadModel, load_config(checkpoint, ExportOptions()), ExportOptions()).binding


@pytest.mark.usefixtures("stream_tiny_tensors")
def test_a_wrong_tensor_in_the_output_fails_the_validation(tmp_path: Path) -> None:
    proof, _, reader = validate_reduced(tmp_path, (0, 1))
    name = "transformer.h.4.mlp.c_fc.weight"
    with reader:
        digests = compare_all(bound_again(proof, tmp_path), reader, tmp_path, spoil=name)
        assert digests.differing == (name,)
        report = prove_reduced(proof, digests, "quick", Tolerance(1e-5, 5e-4))
    assert report.status == "failed"
    assert report.failures == [f"model, tensors (), {name}: the written tensor differs from the checkpoint's"]


def test_parameter_names_of_a_reduced_model() -> None:
    def leaf() -> InMemory:
        return InMemory(np.zeros(1, np.float32))

    expressions = {f"m.layers.{index}.w": leaf() for index in range(4)} | {"m.layers.scale": leaf(), "head.w": leaf()}
    binding = Binding(expressions, {"m.layers.3.tied": "m.layers.0.w", "out.w": "head.w"})
    few = at_reduced_depth(binding, {"m.layers": (2, 3)})
    assert few.expressions["m.layers.0.w"] is expressions["m.layers.2.w"]
    assert few.expressions["m.layers.1.w"] is expressions["m.layers.3.w"]
    assert few.expressions["m.layers.1.tied"] is expressions["m.layers.0.w"]
    assert dict(few.tied) == {"out.w": "head.w"}
    assert set(few.expressions) == {"m.layers.0.w", "m.layers.1.w", "m.layers.1.tied", "m.layers.scale", "head.w"}


def test_layer_indices_of_a_reduced_model() -> None:
    assert select_layers((0, 0), (0, 0, 0, 0)) == (0, 1)
    assert select_layers((0, 1, 0, 1), (0, 1, 0, 1, 0, 1)) == (0, 1, 2, 3)
    assert select_layers((1, 0, 1, 0), (0, 1, 1, 0, 0)) == (1, 0, 2, 3)


def test_digests_of_several_graphs() -> None:
    one, other = TensorDigests(2, 10, "a"), TensorDigests(1, 5, "b", ("w",))
    assert merged_digests([one]) == one
    both = merged_digests([one, other])
    assert (both.tensors, both.bytes, both.differing) == (3, 15, ("w",))
    assert both.sha256 != merged_digests([other, one]).sha256


def test_the_worst_status_is_reported() -> None:
    def report(status: str, note: str = "") -> ValidationReport:
        return ValidationReport(status, "full", 0.0, 0.0, note=note)

    assert merged([report("passed"), report("partial", "a part")]).status == "partial"
    assert merged([report("passed"), report("partial", "a part")]).note == "a part"
    assert merged([report("failed"), report("partial")]).status == "failed"
    assert merged([report("skipped"), report("passed")]).status == "partial"
    assert merged([report("skipped"), report("failed")]).status == "failed"
    assert merged([report("skipped"), report("skipped")]).status == "skipped"
