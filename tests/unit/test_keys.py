"""Keys of blueprints: everything that affects a graph is in them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxport.blueprints import keys
from onnxport.blueprints.keys import export_key
from onnxport.checkpoint.checkpoint import Checkpoint
from onnxport.options import ExportOptions
from tests.unit.weights_files import checkpoint

CONFIG = {"model_type": "bert", "num_hidden_layers": 2, "dtype": "float32"}


def key(directory: Path, config: dict[str, Any] | None = None, **options: Any) -> str | None:
    inventory, _ = checkpoint(directory, model={"w": np.zeros((3, 4), np.float32)})
    (directory / "config.json").write_text(json.dumps(config or CONFIG))
    opened = Checkpoint("m", directory, None, config or CONFIG, "safetensors", (directory / "model.safetensors",))
    return export_key(opened, inventory, replace(ExportOptions(), **options))


@pytest.mark.parametrize(
    "options", [{"dtype": "fp16"}, {"dtype": "bf16"}, {"opset": 20}, {"task": "fill-mask"}], ids=str
)
def test_options_that_affect_a_graph_are_in_its_key(options: dict[str, Any], tmp_path: Path) -> None:
    assert key(tmp_path, **options) != key(tmp_path)


def test_the_configuration_is_in_the_key_without_its_source(tmp_path: Path) -> None:
    assert key(tmp_path, {**CONFIG, "num_hidden_layers": 3}) != key(tmp_path)
    assert key(tmp_path, {**CONFIG, "dtype": "float16", "_name_or_path": "elsewhere"}) == key(tmp_path)


def test_another_commit_of_the_same_version_has_keys_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    def key_of(code: str) -> str | None:
        (tmp_path / "blueprints" / "keys.py").write_text(code)
        keys._code_digest.cache_clear()
        return key(tmp_path)

    request.addfinalizer(keys._code_digest.cache_clear)
    (tmp_path / "blueprints").mkdir()
    monkeypatch.setattr(keys, "__file__", str(tmp_path / "blueprints" / "keys.py"))
    assert key_of("old") == key_of("old") != key_of("new")
