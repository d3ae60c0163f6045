"""timm models with Transformers' wrapper: tests without timm, whose import fails with CPU builds of torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from onnxport import ExportOptions, export
from onnxport.checkpoint.checkpoint import open_checkpoint
from onnxport.errors import MissingDependencyError
from tests.unit.test_checkpoint import write_safetensors

CONFIG: dict[str, Any] = {
    "architecture": "test_resnet", "num_classes": 5, "label_names": list("abcde"),
    "pretrained_cfg": {"input_size": [3, 160, 160], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"},
}  # fmt: skip


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    write_safetensors(tmp_path / "model.safetensors", {"a": [2]})
    return tmp_path


def test_facts_that_transformers_derives_are_added(directory: Path) -> None:
    found = open_checkpoint(directory, ExportOptions())
    assert (found.model_type, found.architectures) == ("timm_wrapper", ("TimmWrapperForImageClassification",))
    (directory / "config.json").write_text(json.dumps({**CONFIG, "num_classes": 0}))
    assert open_checkpoint(directory, ExportOptions()).architectures == ("TimmWrapperModel",)


def test_missing_packages_are_named(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxport.loading.load.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"'timm_wrapper'.*pip install timm torchvision"):
        export(directory, directory / "out", ExportOptions())
