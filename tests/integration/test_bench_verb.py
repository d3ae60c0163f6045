"""`onnxport bench` on tiny exported models."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import onnxport
from conformance.checkpoints import make_checkpoint
from onnxport import ExportOptions
from onnxport.cli import main
from onnxport.runtime.bench import Measurements
from tests.integration import tiny_models
from tests.integration.test_multimodal import checkpoint as multimodal_checkpoint

FEW = ("--prompt-tokens", "9", "--new-tokens", "4")


def exported(model_type: str, feature: str, parent: Path) -> Path:
    output = parent / f"{model_type}-{feature}"
    checkpoint = make_checkpoint(model_type, feature, parent / "checkpoints")
    onnxport.export(checkpoint, output, ExportOptions(task=feature, validate="none"))
    return output


def measured(capsys: pytest.CaptureFixture[str], directory: Path, *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["bench", str(directory), "--json", *FEW, *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    found = json.loads(captured.out)
    assert set(found) == {field.name for field in fields(Measurements)}
    assert found["load_seconds"] > 0
    assert found["peak_memory_bytes"] > 1_000_000
    latencies = found["latency_ms"]
    assert list(latencies) == ["p50", "p90", "p99"]
    assert 0 < latencies["p50"] <= latencies["p90"] <= latencies["p99"]
    return dict(found)


def test_a_decoder(gpt2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "gpt2"
    onnxport.export(gpt2, directory, ExportOptions(validate="none"))
    found = measured(capsys, directory, "--batch", "2", "--threads", "1")
    assert found["prompt_tokens"] == 9
    assert found["prefill_tokens_per_second"] > 0
    assert found["decode_tokens_per_second"] == pytest.approx(2000 / found["latency_ms"]["p50"], rel=0.5)
    assert 0 < found["session_share"] < 1
    assert main(["bench", str(directory), *FEW]) == 0
    shown = capsys.readouterr().out
    for part in ("load", "prefill, 9 tokens", "decode", "one token", "of which ONNX Runtime", "peak memory"):
        assert part in shown


def test_an_encoder_decoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = measured(capsys, exported("t5", "seq2seq-lm-with-past", tmp_path), "--batch", "2")
    assert found["prompt_tokens"] == 1
    assert found["decode_tokens_per_second"] > 0
    assert 0 < found["session_share"] < 1


def test_a_classifier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = exported("roberta", "sequence-classification", tmp_path)
    found = measured(capsys, directory)
    assert found["prompt_tokens"] == 0
    assert found["prefill_tokens_per_second"] is found["decode_tokens_per_second"] is found["session_share"] is None
    assert main(["bench", str(directory), *FEW]) == 0
    shown = capsys.readouterr().out
    assert "one run" in shown
    assert "decode" not in shown


def test_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured(capsys, exported("vit", "image-classification", tmp_path))


@pytest.mark.parametrize("past", [True, pytest.param(False, marks=pytest.mark.wide)])
def test_a_decoder_with_images(past: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = tiny_models.image_text_model(tmp_path, "Llava")
    directory = tiny_models.exported(checkpoint, "image-text-to-text" + "-with-past" * past)
    found = measured(capsys, directory, "--batch", "2")
    assert found["prompt_tokens"] == 9
    assert found["prefill_tokens_per_second"] > 0
    assert found["decode_tokens_per_second"] > 0
    assert 0 < found["session_share"] < 1


@pytest.mark.wide
def test_a_decoder_with_multimodal_rotary_positions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, checkpoint = multimodal_checkpoint("Qwen2_5_VL", tmp_path / "checkpoint")
    onnxport.export(checkpoint, tmp_path / "out", ExportOptions(validate="none"))
    assert measured(capsys, tmp_path / "out", "--batch", "2")["decode_tokens_per_second"] > 0


@pytest.mark.wide
def test_split_encoders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = make_checkpoint("clip", "default", tmp_path / "checkpoints")
    onnxport.export(checkpoint, tmp_path / "out", ExportOptions(split_encoders=True, validate="none"))
    assert measured(capsys, tmp_path / "out")["decode_tokens_per_second"] is None


def test_errors_of_directories_that_cannot_be_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(tmp_path)]) == 1
    assert "holds no onnxport.json" in capsys.readouterr().err
    assert main(["bench", str(tmp_path), "--new-tokens", "0"]) == 2
    assert main(["bench", str(exported("gpt2", "causal-lm-with-past", tmp_path)), "--device", "tpu"]) == 2
    assert "device 'tpu' isn't one of cpu" in capsys.readouterr().err
