"""Several checkpoints are exported in processes of their own; a failure is that of its checkpoint alone."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import onnxport
from conformance.checkpoints import make_checkpoint
from onnxport import ExportOptions, _export_all
from onnxport.cli import main
from onnxport.errors import OptionError

QUICK = ["--validate", "quick"]


@pytest.fixture
def models(tmp_path: Path) -> list[str]:
    """Return two checkpoints of one configuration."""
    checkpoint = make_checkpoint("bert", "masked-lm", tmp_path)
    for name in ("first", "second"):
        shutil.copytree(checkpoint, tmp_path / name)
    return [str(tmp_path / name) for name in ("first", "second")]


def records_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {Path(record["model"]).name: record for record in records}


def test_a_list_is_exported_and_continued(
    models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list").write_text(f"# a comment\n{models[0]}\n\n{tmp_path / 'missing'}\n")
    arguments = ["export-all", str(tmp_path / "list"), str(tmp_path / "out"), "--jobs", "2", *QUICK]
    assert main(arguments) == 1
    found = records_of(capsys)
    assert {name: record["status"] for name, record in found.items()} == {"first": "exported", "missing": "failed"}
    assert "missing" in found["missing"]["error"]
    assert (found["first"]["task"], found["first"]["validation"]) == ("fill-mask", "passed")
    assert onnxport.verify(tmp_path / "out" / "first").problems == ()

    (tmp_path / "list").write_text("\n".join(models))
    assert main(arguments) == 0
    found = records_of(capsys)
    assert {name: record["status"] for name, record in found.items()} == {"first": "kept", "second": "exported"}
    assert main([*arguments, "--dtype", "fp16"]) == 1
    assert "is not empty; use --force" in records_of(capsys)["first"]["error"]


@pytest.mark.wide
def test_a_layouts_defaults_and_further_outputs_are_continued(models: list[str], tmp_path: Path) -> None:
    options = ExportOptions(layout="transformers.js", outputs=("hidden_states",), validate="none")
    for status in ("exported", "kept"):
        (record,) = onnxport.export_all(models[:1], tmp_path / "out", options)
        assert (record.status, record.error) == (status, "")


def test_a_process_that_is_killed_fails_its_checkpoint_alone(
    models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(subprocess.Popen[bytes]):
        def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:
            if json.loads(input)["model"] == models[0]:
                self.kill()
            return super().communicate(input, timeout)

    monkeypatch.setattr(_export_all.subprocess, "Popen", Killed)
    options = ExportOptions(validate="none")
    records = {record.model: record for record in onnxport.export_all(models, tmp_path / "out", options)}
    assert records[models[0]].error.startswith("its process was ended by SIGKILL")
    assert records[models[1]].status == "exported"


def test_two_checkpoints_of_one_directory_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="a/model and b/model would both be exported to out/model: leave one out"):
        list(onnxport.export_all(["a/model", "b/model"], "out"))
