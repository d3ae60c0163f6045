"""`onnxport describe` shows the graphs of an export without reading weights; its module exports the same graphs."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
from torch._subclasses.fake_tensor import DataDependentOutputException

import onnxport
from conformance.checkpoints import make_checkpoint
from onnxport import _describe as describing
from onnxport._describe import describe_checkpoint
from onnxport.checkpoint.reading import Reader
from onnxport.cli import main
from onnxport.description.source_code import python_module
from onnxport.errors import CheckpointNotFoundError, UnsupportedError
from onnxport.onnx import OnnxConfig, export, validate_model_outputs
from onnxport.options import ExportOptions


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


def sentences(directory: Path) -> Path:
    root = make_checkpoint("bert", "default", directory / "sentences")
    modules = [{"path": "", "type": "sentence_transformers.models.Transformer"}]
    modules.append({"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"})
    (root / "modules.json").write_text(json.dumps(modules))
    (root / "1_Pooling").mkdir(exist_ok=True)
    (root / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
    return root


@pytest.mark.parametrize(
    ("model_type", "feature", "options"),
    [
        ("bert", "masked-lm", {}),
        ("bert", "masked-lm", {"dtype": "fp16", "opset": 18, "atol": 0.5}),
        ("gpt2", "causal-lm", {}),
        pytest.param("t5", "seq2seq-lm", {}, marks=pytest.mark.wide),
        ("vit", "image-classification", {}),
        ("clip", "default", {"split_encoders": True}),
        ("bert", "sentences", {}),
    ],
)
def test_the_description_is_that_of_the_export(
    directory: Path, tmp_path: Path, model_type: str, feature: str, options: dict[str, Any]
) -> None:
    checkpoint = sentences(directory) if feature == "sentences" else make_checkpoint(model_type, feature, directory)
    description = describe_checkpoint(checkpoint, ExportOptions(**options))
    manifest = onnxport.export(checkpoint, tmp_path / "none", ExportOptions(dry_run=True, **options)).manifest
    assert (description.task, description.architecture) == (manifest.task, manifest.source["architecture"])
    assert not description.notes
    assert len(description.graphs) == len(manifest.components)
    for graph, component in zip(description.graphs, manifest.components, strict=True):
        assert (graph.name, graph.file, graph.opset) == (component.name, component.file, component.opset)
        assert set(graph.fixed_axes) == set(component.fixed_axes)
        for ours, its in ((graph.inputs, component.inputs), (graph.outputs, component.outputs)):
            assert [(t.name, t.dtype, t.axes) for t in ours] == [(t.name, t.dtype, tuple(t.axes)) for t in its]
        assert graph.atol == options.get("atol", graph.atol)


def test_no_weights_are_read(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("weights are read")

    monkeypatch.setattr(Reader, "read_into", refuse)
    monkeypatch.setattr(describing, "load_model", refuse)
    assert describe_checkpoint(make_checkpoint("bert", "masked-lm", directory)).graphs


def test_the_command(directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # set by test runners; output that isn't a terminal isn't truncated
    checkpoint = str(make_checkpoint("gpt2", "causal-lm", directory))
    assert main(["describe", checkpoint]) == 0
    text = capsys.readouterr().out
    assert "GPT2LMHeadModel (gpt2) for text-generation-with-past, fp32" in text
    assert "derived description (onnxport.description.derived.DerivedOnnxConfig)" in text
    assert "past_key_values.0…1.key" in text
    documents = []
    for _ in range(2):
        assert main(["describe", checkpoint, "--json", "--task", "feature-extraction"]) == 0
        documents.append(capsys.readouterr().out)
    assert documents[0] == documents[1]
    found = json.loads(documents[0])
    (graph,) = found["graphs"]
    assert (found["task"], graph["name"], graph["source"]) == ("feature-extraction", "model", "hand-written")
    assert graph["inputs"][0] == {
        "name": "input_ids",
        "dtype": "int64",
        "axes": ["batch_size", "sequence_length"],
        "example": [2, 8],
    }


def test_the_description_names_the_model_class_of_a_sentence_transformer(directory: Path) -> None:
    (graph,) = describe_checkpoint(sentences(directory)).graphs
    assert graph.described_by == "onnxport.configs.text_encoders.BertOnnxConfig"


def test_errors(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckpointNotFoundError):
        describe_checkpoint(directory / "nothing")
    checkpoint = str(make_checkpoint("bert", "masked-lm", directory))
    assert main(["describe", checkpoint, "--task", "image-classification"]) == 1
    assert "bert doesn't support task 'image-classification'" in capsys.readouterr().err
    assert main(["describe", checkpoint, "--json", "--python"]) == 2


def test_a_model_that_requires_values_is_loaded(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise DataDependentOutputException(torch.ops.aten.item.default)

    monkeypatch.setattr(describing, "build_fake", refuse)
    found = describe_checkpoint(make_checkpoint("bert", "masked-lm", directory))
    reason = "DataDependentOutputException: aten.item.default"
    assert found.notes == (f"the weights were loaded, because the description requires their values ({reason})",)
    assert found.graphs[0].outputs[0].axes == ("batch_size", "sequence_length", 57)


def test_pickled_weights_are_not_read(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = make_checkpoint("bert", "masked-lm", tmp_path)
    model = transformers.AutoModelForMaskedLM.from_pretrained(checkpoint)
    torch.save(model.state_dict(), checkpoint / "pytorch_model.bin")
    (checkpoint / "model.safetensors").unlink()
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("weights are read"))
    (note,) = describe_checkpoint(checkpoint).notes
    assert "aren't read in parts" in note


def executed(source: str) -> Any:
    module = ModuleType("frozen")
    exec(compile(source, "frozen", "exec"), vars(module))
    return module


@pytest.mark.parametrize(
    ("model_type", "feature", "auto_class", "options"),
    [
        ("bert", "masked-lm", "AutoModelForMaskedLM", {}),
        ("gptj", "causal-lm", "AutoModelForCausalLM", {"past": False}),
        pytest.param("t5", "seq2seq-lm", "AutoModelForSeq2SeqLM", {"past": False}, marks=pytest.mark.wide),
        ("vit", "image-classification", "AutoModelForImageClassification", {}),
    ],
)
def test_the_printed_module_exports_and_validates(
    directory: Path, tmp_path: Path, model_type: str, feature: str, auto_class: str, options: dict[str, Any]
) -> None:
    checkpoint = make_checkpoint(model_type, feature, directory)
    description = describe_checkpoint(checkpoint, ExportOptions(**options))
    model = getattr(transformers, auto_class).from_pretrained(checkpoint).eval()
    loader = transformers.AutoImageProcessor if model_type == "vit" else transformers.AutoTokenizer
    preprocessor = loader.from_pretrained(checkpoint)
    config = executed(python_module(description)).make_config(model.config)
    assert isinstance(config, OnnxConfig)
    assert list(config.inputs) == [tensor.name for tensor in description.graphs[0].inputs]
    file = tmp_path / "model.onnx"
    _, names = export(preprocessor, model, config, config.default_onnx_opset, file)
    validate_model_outputs(config, preprocessor, model, file, names, config.atol_for_validation)


def test_an_edited_module_is_exported(directory: Path, tmp_path: Path) -> None:
    checkpoint = make_checkpoint("bert", "masked-lm", directory)
    source = python_module(describe_checkpoint(checkpoint)).replace(
        '"token_type_ids": {0: "batch", 1: "sequence"},', ""
    )
    model = transformers.AutoModelForMaskedLM.from_pretrained(checkpoint).eval()
    config = executed(source).make_config(model.config)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    inputs, _ = export(tokenizer, model, config, 20, tmp_path / "model.onnx")
    assert inputs == ["input_ids", "attention_mask"]


def test_the_command_exports_with_an_edited_module(directory: Path, tmp_path: Path) -> None:
    checkpoint = make_checkpoint("bert", "masked-lm", directory)
    mine, output = tmp_path / "mine.py", tmp_path / "out"
    module = python_module(describe_checkpoint(checkpoint))
    mine.write_text(module.replace('"token_type_ids": {0: "batch", 1: "sequence"},', ""))
    assert main(["export", str(checkpoint), str(output), "--description", str(mine), "--quiet"]) == 0
    manifest = json.loads((output / "onnxport.json").read_text())
    assert [tensor["name"] for tensor in manifest["components"][0]["inputs"]] == ["input_ids", "attention_mask"]
    assert manifest["validation"]["status"] == "passed"
    assert main(["validate", str(output), "--quiet"]) == 1  # files that a manifest names aren't run
    assert main(["validate", str(output), "--description", str(mine), "--quiet"]) == 0


def test_an_axis_that_a_description_lists_and_the_model_fixes(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = make_checkpoint("vit", "image-classification", directory)
    mine = tmp_path / "mine.py"
    source = python_module(describe_checkpoint(checkpoint))
    listed = source.replace('"pixel_values": {0: "batch"', '"pixel_values": {0: "batch", 2: "height"')
    assert listed != source
    mine.write_text(listed)
    assert main(["export", str(checkpoint), str(tmp_path / "out"), "--description", str(mine), "--quiet"]) == 1
    assert "mine.py lists axes as dynamic that ViTForImageClassification fixes (pixel_values: height = " in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "isn't a file"),
        ("def make_config(config): return config.nonsense", "AttributeError"),
        ("def make_config(config): return 5", "make_config returns a int"),
        ("a =", "SyntaxError"),
        ("", "it has no function make_config"),
    ],
)
def test_errors_of_description_files(
    directory: Path, tmp_path: Path, source: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, mine = make_checkpoint("bert", "masked-lm", directory), tmp_path / "mine.py"
    if source is not None:
        mine.write_text(source)
    assert main(["export", str(checkpoint), str(tmp_path / "out"), "--description", str(mine)]) != 0
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model_type", "feature", "options", "message"),
    [
        ("gpt2", "causal-lm", {}, "with a cache; add --no-past"),
        ("t5", "seq2seq-lm", {}, r"exported as several \(encoder_model, decoder_model_merged\): add --no-past"),
        ("bert", "sentences", {}, "as SentenceEmbeddingOnnxConfig does"),
        ("gptj", "causal-lm", {"past": False, "last_logits": True}, "as DerivedOnnxConfig does"),
    ],
)
def test_values_without_a_literal(
    directory: Path, model_type: str, feature: str, options: dict[str, Any], message: str
) -> None:
    checkpoint = sentences(directory) if feature == "sentences" else make_checkpoint(model_type, feature, directory)
    with pytest.raises(UnsupportedError, match=message):
        python_module(describe_checkpoint(checkpoint, ExportOptions(**options)))
