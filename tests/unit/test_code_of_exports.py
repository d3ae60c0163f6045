"""Code in an exported directory never runs, and there is no prompt for it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxport
from onnxport.errors import OnnxportError
from onnxport.onnx.utils import get_preprocessor
from tests.unit.test_containment import write_export

CODE = """
import pathlib
pathlib.Path({ran!r}).write_text("ran")
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizer


class Own(PreTrainedConfig):
    model_type = "mine"
"""
AUTO_MAP = {
    name: "own.Own"
    for name in ("AutoConfig", "AutoModel", "AutoProcessor", "AutoImageProcessor", "AutoFeatureExtractor")
} | {"AutoTokenizer": ["own.Own", "own.Own"]}


class YesInput:
    """Standard input that answers yes, and records that it was read."""

    def __init__(self) -> None:
        self.asked = 0

    def readline(self, *_: object) -> str:
        self.asked += 1
        return "y\n"


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Callable[[], bool]]:
    """An export with custom code, and whether the code ran or standard input was read."""
    directory, ran, answering = write_export(tmp_path / "out"), tmp_path / "ran", YesInput()
    (directory / "own.py").write_text(CODE.format(ran=str(ran)))
    for name in ("config", "tokenizer_config", "preprocessor_config", "processor_config"):
        values = {"model_type": "mine", "auto_map": AUTO_MAP, "hidden_size": 1024}
        (directory / f"{name}.json").write_text(json.dumps(values))
    monkeypatch.setattr(sys, "stdin", answering)
    monkeypatch.setattr("builtins.input", lambda *_: answering.readline())
    return directory, lambda: ran.exists() or answering.asked > 0


def test_load_reads_the_configuration_without_its_code(export: tuple[Path, Callable[[], bool]]) -> None:
    directory, touched = export
    model: Any = onnxport.load(directory)
    assert (model.config.model_type, model.config.hidden_size) == ("mine", 1024)
    found = model(x=np.zeros((2, 1024), np.float32))
    assert np.array_equal(np.asarray(next(iter(found.values()))), np.ones((2, 1024)))
    assert not touched()


@pytest.mark.parametrize("task", ["feature-extraction", "image-feature-extraction", "text-generation"])
def test_pipelines_run_no_code(export: tuple[Path, Callable[[], bool]], task: str) -> None:
    directory, touched = export
    with pytest.raises(OnnxportError):
        onnxport.pipeline(task, directory)
    assert not touched()


def test_the_preprocessor_of_the_facade(export: tuple[Path, Callable[[], bool]]) -> None:
    directory, touched = export
    assert get_preprocessor(str(directory)) is None
    assert not touched()


@pytest.mark.parametrize("arguments", [["run"], ["run", "--text", "a"], ["run", "--input-ids", "1,2"], ["chat"]])
def test_the_command(export: tuple[Path, Callable[[], bool]], arguments: list[str]) -> None:
    from onnxport.cli import main

    directory, touched = export
    assert main([arguments[0], str(directory), *arguments[1:]]) != 0
    assert not touched()
