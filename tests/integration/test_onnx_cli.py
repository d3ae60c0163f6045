"""`python -m onnxport.onnx` behaves as `python -m transformers.onnx` did, and leaves no partial output."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from onnxport.onnx.__main__ import main


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["onnxport.onnx", *map(str, arguments)])
    return main()


def everything(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*"))


def test_the_model_is_written_to_a_directory(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(monkeypatch, "-m", bert, "--feature", "masked-lm", "--export_with_transformers", tmp_path / "a" / "b")
    assert code == 0
    assert everything(tmp_path) == ["a", "b", "model.onnx"]
    assert capsys.readouterr().out == ""


def test_an_existing_file_is_replaced(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "kept-name.onnx"
    file.write_bytes(b"old")
    assert run(monkeypatch, "--model", bert, "--feature", "masked-lm", "--opset", 11, file) == 0
    assert everything(tmp_path) == ["kept-name.onnx"]
    assert file.stat().st_size > 1000


def test_a_failed_validation_leaves_no_file(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def differs(*_: object) -> None:
        raise ValueError("Outputs values doesn't match")

    monkeypatch.setattr("onnxport.onnx.convert.validate_model_outputs", differs)
    assert run(monkeypatch, "-m", bert, "--feature", "masked-lm", tmp_path / "new" / "out") == 1
    assert everything(tmp_path) == []
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Outputs values doesn't match" in captured.err


def test_a_failed_validation_keeps_an_existing_file(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differs(*_: object) -> None:
        raise ValueError("Outputs values doesn't match")

    (tmp_path / "model.onnx").write_bytes(b"old")
    monkeypatch.setattr("onnxport.onnx.convert.validate_model_outputs", differs)
    assert run(monkeypatch, "-m", bert, "--feature", "masked-lm", tmp_path) == 1
    assert (tmp_path / "model.onnx").read_bytes() == b"old"
    assert everything(tmp_path) == ["model.onnx"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--opset", "10"], "Opset 10 is not sufficient to export bert. At least  11 is required."),
        (["--feature", "nonsense"], "Unknown task: nonsense"),
        (["--feature", "causal-lm-with-past"], "bert doesn't support feature causal-lm-with-past"),
        (["--framework", "tf"], "tf_model.h5"),
        (["--preprocessor", "image_processor"], "image processor"),
    ],
)
def test_an_error_is_one_line(
    bert: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert run(monkeypatch, "-m", bert, *arguments, tmp_path / "out") == 1
    captured = capsys.readouterr()
    last = captured.err.strip().splitlines()[-1]
    assert last.startswith("onnxport: error: ") and message in last
    assert "Traceback" not in captured.err and captured.out == ""
    assert everything(tmp_path) == []


def test_a_full_disk_is_named(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("onnxport.onnx.convert.export", full)
    assert run(monkeypatch, "-m", bert, "--feature", "masked-lm", tmp_path / "out") == 1
    assert capsys.readouterr().err.endswith(f"onnxport: error: {tmp_path / 'out'}: No space left on device\n")
    assert everything(tmp_path) == []


@pytest.mark.parametrize("error", [RuntimeError("torch gave up"), TypeError("torch gave up")])
def test_an_unexpected_error_is_one_line(
    error: Exception, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("onnxport.onnx.convert.export", fail)
    assert run(monkeypatch, "-m", bert, "--feature", "masked-lm", tmp_path / "out") == 1
    assert capsys.readouterr().err.endswith(f"onnxport: error: {type(error).__name__}: torch gave up\n")
    assert everything(tmp_path) == []


def test_misuse_exits_with_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "--framework", "jax", tmp_path)
    assert ended.value.code == 2
