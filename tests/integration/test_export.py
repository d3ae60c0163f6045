"""Exports from a checkpoint to a validated directory, with the API and the command."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import onnxport
from conformance.checkpoints import make_checkpoint
from onnxport.cli import main
from onnxport.errors import OutputError, TraceError, UnsupportedError, ValidationError


def remaining_files(parent: Path) -> list[str]:
    return sorted(path.name for path in parent.iterdir())


def test_the_directory_has_a_validation_report(bert: Path, tmp_path: Path) -> None:
    result = onnxport.export(bert, tmp_path / "out")
    manifest = onnxport.Manifest.from_json((tmp_path / "out" / "onnxport.json").read_text())
    assert manifest == result.manifest
    assert manifest.task == "fill-mask"
    assert manifest.validation["status"] == "passed"
    assert [case["name"] for case in manifest.validation["cases"]] == [
        "traced",
        "batch 1",
        "odd lengths",
        "padding",
        "long",
        "sentences",
    ]
    (component,) = manifest.components
    assert [tensor.name for tensor in component.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    assert {tensor.axes for tensor in component.inputs} == {("batch_size", "sequence_length")}
    assert component.outputs[0].axes[:2] == ("batch_size", "sequence_length")
    for name in ("config.json", "tokenizer.json", "model.onnx"):
        assert (tmp_path / "out" / name).is_file()
    assert remaining_files(tmp_path) == ["out"]


def test_a_damaged_export_is_not_replaced(bert: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "onnxport.json").write_text("{")
    with pytest.raises(OutputError, match=r"onnxport\.json can't be read .*; remove the directory yourself"):
        onnxport.export(bert, tmp_path / "out", onnxport.ExportOptions(force=True))
    assert (tmp_path / "out" / "onnxport.json").read_text() == "{"
    shutil.rmtree(tmp_path / "out")
    onnxport.export(bert, tmp_path / "out", onnxport.ExportOptions(validate="none"))


def test_progress_names_the_steps_of_tracing(gpt2: Path, tmp_path: Path) -> None:
    stages: list[str] = []
    options = onnxport.ExportOptions(validate="none", cache=False)
    onnxport.export(gpt2, tmp_path / "out", options, progress=lambda stage, done: stages.append(stage))
    assert list(dict.fromkeys(stages)) == [
        "read the checkpoint",
        "import PyTorch and Transformers",
        "bind the weights",
        "describe the model",
        "trace model: capture the graph",
        "trace model: convert it to ONNX",
        "trace model: simplify it",
        "stamp the layers of model",
        "write model.onnx",
        "write the manifest",
    ]


def test_one_decoder_graph_for_prefill_and_decode(gpt2: Path, tmp_path: Path) -> None:
    result = onnxport.export(gpt2, tmp_path / "out")
    assert result.manifest.task == "text-generation-with-past"
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    caches = [value for value in session.get_inputs() if value.name.startswith("past_key_values.")]

    def step(ids: np.ndarray, past: dict[str, np.ndarray], length: int) -> dict[str, np.ndarray]:
        feed = {
            "input_ids": ids,
            "attention_mask": np.ones((1, length + ids.shape[1]), dtype=np.int64),
            "position_ids": np.arange(length, length + ids.shape[1])[None],
            **past,
        }
        names = [value.name for value in session.get_outputs()]
        return dict(zip(names, session.run(names, feed), strict=True))

    nothing = {value.name: np.zeros((1, value.shape[1], 0, value.shape[3]), dtype=np.float32) for value in caches}
    ids = np.array([[5, 6, 7, 8, 9]])
    whole = step(ids, nothing, 0)["logits"]
    first = step(ids[:, :4], nothing, 0)
    past = {name: first[name.replace("past_key_values", "present")] for name in nothing}
    np.testing.assert_allclose(step(ids[:, 4:], past, 4)["logits"][0, -1], whole[0, -1], atol=1e-5)


def test_external_data_has_the_name_that_clients_expect(bert: Path, tmp_path: Path) -> None:
    options = onnxport.ExportOptions(external_data="always", validate="quick")
    result = onnxport.export(bert, tmp_path / "out", options)
    assert result.manifest.components[0].external_data == ("model.onnx_data",)
    assert onnxport.inspect(tmp_path / "out").graphs[0].external_data == ("model.onnx_data",)


def test_half_precision(bert: Path, tmp_path: Path) -> None:
    result = onnxport.export(bert, tmp_path / "out", onnxport.ExportOptions(dtype="fp16"))
    assert result.manifest.components[0].outputs[0].dtype == "float16"
    assert result.manifest.validation["status"] == "passed"


def test_a_graph_that_onnxruntime_cannot_run_is_not_validated(bert: Path, tmp_path: Path) -> None:
    result = onnxport.export(bert, tmp_path / "out", onnxport.ExportOptions(dtype="bf16"))
    assert result.manifest.components[0].outputs[0].dtype == "bfloat16"
    assert result.manifest.validation["status"] == "skipped"
    assert "no bfloat16 kernels" in result.manifest.validation["note"]
    assert onnxport.validate(tmp_path / "out").status == "skipped"


def test_what_is_beside_a_graph_that_cannot_be_run_is_validated(bert: Path, tmp_path: Path) -> None:
    options = onnxport.ExportOptions(dtype="fp32,bf16,q8")
    validation = onnxport.export(bert, tmp_path / "out", options).manifest.validation
    assert validation["status"] == "partial"
    assert validation["note"].startswith("bf16: ONNX Runtime's CPU provider has no bfloat16 kernels")
    assert {case["component"] for case in validation["cases"]} >= {"model fp32", "model q8"}
    again = onnxport.validate(tmp_path / "out")
    assert (again.status, again.note.split(":")[0]) == ("partial", "bf16")


def test_feature_names_of_4_37_and_tasks_of_today(bert: Path, tmp_path: Path) -> None:
    options = onnxport.ExportOptions(task="masked-lm", validate="none", dry_run=True)
    result = onnxport.export(bert, tmp_path / "out", options)
    assert result.manifest.task == "fill-mask"
    assert result.directory is None
    assert remaining_files(tmp_path) == []


def test_a_mismatch_leaves_no_output(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="differs from the original"):
        onnxport.export(bert, tmp_path / "out", onnxport.ExportOptions(atol=0.0, rtol=0.0))
    assert remaining_files(tmp_path) == []


def test_a_mismatch_can_be_kept(bert: Path, tmp_path: Path) -> None:
    options = onnxport.ExportOptions(atol=0.0, rtol=0.0, keep_invalid=True)
    assert onnxport.export(bert, tmp_path / "out", options).manifest.validation["status"] == "failed"
    assert onnxport.validate(tmp_path / "out", options=options).status == "failed"
    assert onnxport.validate(tmp_path / "out").status == "passed"


def test_unknown_and_unsupported_tasks(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="did you mean 'fill-mask'"):
        onnxport.export(bert, tmp_path / "out", onnxport.ExportOptions(task="fil-mask"))
    with pytest.raises(UnsupportedError, match="bert doesn't support task 'image-classification'"):
        onnxport.export(bert, tmp_path / "out", onnxport.ExportOptions(task="image-classification"))
    with pytest.raises(UnsupportedError, match="task '' is unknown"):
        onnxport.export(bert, tmp_path / "out", onnxport.ExportOptions(task=""))
    with pytest.raises(UnsupportedError, match=r"BertForMaskedLM .* returns no cache.*without -with-past"):
        onnxport.export(bert, tmp_path / "out", onnxport.ExportOptions(task="fill-mask-with-past"))


def test_a_substitute_tokenizer_is_not_written(bert: Path, tmp_path: Path) -> None:
    """The tokenizer can't be loaded from its vocabulary: the model is exported without a tokenizer."""
    directory = tmp_path / "checkpoint"
    shutil.copytree(bert, directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).unlink()
    (directory / "vocab.json").write_text("{}")
    files = onnxport.export(directory, tmp_path / "out", onnxport.ExportOptions(validate="none")).manifest.files
    assert "vocab.json" in files
    assert not any(name.startswith("tokenizer") for name in files)


def test_an_output_with_other_files_is_not_replaced(bert: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(OutputError):
            onnxport.export(bert, tmp_path / "out", onnxport.ExportOptions(force=force))
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_force_replaces_an_earlier_export_unless_the_export_fails(bert: Path, tmp_path: Path) -> None:
    quick = onnxport.ExportOptions(validate="none")
    onnxport.export(bert, tmp_path / "out", quick)
    before = (tmp_path / "out" / "onnxport.json").read_bytes()
    with pytest.raises(OutputError, match="--force"):
        onnxport.export(bert, tmp_path / "out", quick)
    with pytest.raises(ValidationError):
        onnxport.export(bert, tmp_path / "out", onnxport.ExportOptions(force=True, atol=0.0, rtol=0.0))
    assert (tmp_path / "out" / "onnxport.json").read_bytes() == before
    onnxport.export(bert, tmp_path / "out", onnxport.ExportOptions(force=True, validate="quick"))
    assert (tmp_path / "out" / "onnxport.json").read_bytes() != before
    assert remaining_files(tmp_path) == ["out"]


def test_a_failed_write_leaves_no_output(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("onnxport.bundles.written.write_graph", full)
    with pytest.raises(OutputError, match="No space left"):
        onnxport.export(bert, tmp_path / "deep" / "out", onnxport.ExportOptions(validate="none"))
    assert remaining_files(tmp_path) == []


def test_an_interrupt_leaves_no_output(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("onnxport.bundles.written.write_graph", stop)
    assert main(["export", str(bert), str(tmp_path / "out"), "--quiet"]) == 130
    assert capsys.readouterr().err.strip() == "onnxport: interrupted"
    assert remaining_files(tmp_path) == []


def test_truncated_external_data(bert: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    onnxport.export(bert, output, onnxport.ExportOptions(external_data="always", validate="none"))
    os.truncate(output / "model.onnx_data", 100)
    capfd.readouterr()
    for arguments in (["validate", str(output), "--quiet"], ["run", str(output), "--text", "[MASK]"]):
        assert main(arguments) == 1
        error = capfd.readouterr().err
        assert "model.onnx_data is truncated: it has 100 bytes" in error
        assert error.count("\n") == 1  # ONNX Runtime's own log is silent


def test_the_command_prints_json_only(bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", str(bert), str(tmp_path / "out"), "--json", "--validate", "quick"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["task"] == "fill-mask"
    assert main(["run", str(tmp_path / "out"), "--text", "[MASK]", "--json"]) == 0
    assert main(["inspect", str(tmp_path / "out"), "--json"]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["export", "{tmp}/none", "{tmp}/out"], 1, "no such directory"),
        (["export", "{bert}", "{tmp}/out", "--opset", "5"], 2, "--opset 5 is out of range"),
        (["export", "{bert}", "{tmp}/out", "--task", "nonsense"], 1, "task 'nonsense' is unknown"),
        (["export", "{bert}"], 2, "OUTPUT|output"),
        (["list", "--model-type", "bertt"], 1, "did you mean"),
        (["inspect", "{tmp}"], 1, "no .onnx file"),
        (["validate", "{tmp}"], 1, "no onnxport.json"),
        (["validate", "{tmp}/none"], 1, "no such directory"),
        (["run", "{tmp}", "--text", "x"], 1, "no onnxport.json"),
    ],
)
def test_an_error_is_one_line(
    arguments: list[str], code: int, message: str, bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [argument.format(bert=bert, tmp=tmp_path) for argument in arguments]
    assert main(filled) == code
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert any(part in error for part in message.split("|"))
    assert remaining_files(tmp_path) == []


def test_a_model_that_pytorch_cannot_run_in_a_type_names_another(tmp_path: Path) -> None:
    checkpoint = make_checkpoint("deberta", "masked-lm", tmp_path / "checkpoint")
    with pytest.raises(TraceError, match=r"DebertaForMaskedLM .* mixes types there: export with --dtype fp32"):
        onnxport.export(checkpoint, tmp_path / "out", onnxport.ExportOptions(dtype="fp16"))
