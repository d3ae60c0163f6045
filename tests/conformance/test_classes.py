"""The matrix of classes: each class of Transformers by the name in `architectures`, without task and preprocessor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conformance.exports import PASSED
from conformance.matrix import classes as module
from conformance.matrix.classes import classes, run_class


def test_classes_that_no_auto_class_lists_are_included() -> None:
    found = {name: model_type for model_type, name in classes()}
    assert len(found) > 1500
    assert found["DPRReader"] == "dpr"
    assert "BertPreTrainedModel" not in found


def test_a_class_is_exported_and_used(tmp_path: Path) -> None:
    record = run_class("electra", "ElectraForPreTraining", tmp_path)
    assert (record["status"], record["task"], record["open"], record["used"]) == (PASSED, "architecture", [], True)
    assert not any((tmp_path / kind / "ElectraForPreTraining").exists() for kind in ("checkpoints", "outputs"))


def test_a_class_without_a_whole_interface_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def described(arguments: list[str]) -> tuple[int, str]:
        code, text = command(arguments)
        manifest = Path(arguments[2]) / "onnxport.json"
        manifest.write_text(manifest.read_text().replace("for training", module.NOT_DESCRIBED))
        return code, text

    command: Any = module.command
    monkeypatch.setattr(module, "command", described)
    record = run_class("electra", "ElectraForPreTraining", tmp_path)
    assert (record["category"], record["message"]) == ("interface", "not inputs: labels")
