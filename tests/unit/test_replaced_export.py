"""An export may replace a directory while it is loaded: graph, weights and settings are of one export."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from onnxport.bundles._stages import exchange
from onnxport.errors import ReplacedExportError
from onnxport.runtime import load as loading
from onnxport.runtime.directory import Directory
from onnxport.runtime.settings import RunSettings
from tests.unit.test_containment import write_export


def export(directory: Path, value: int) -> Path:
    """Write an export whose weights and settings have a value."""
    write_export(directory, "model.onnx_data", data=("model.onnx_data",))
    (directory / "model.onnx_data").write_bytes(np.full(1024, value, np.float32).tobytes())
    (directory / "config.json").write_text(json.dumps({"model_type": "bert", "pad_token_id": value}))
    return directory


def weight(directory: Directory) -> float:
    outputs = directory.graph("model").run({"x": np.zeros((1, 1024), np.float32)})
    return float(outputs["y"].numpy()[0, 0])


@pytest.mark.parametrize("last", ["graph", "settings"])
def test_files_of_two_exports_are_not_mixed(tmp_path: Path, last: str) -> None:
    first, second = export(tmp_path / "out", 1), export(tmp_path / "other", 2)
    opened = Directory(first)
    assert opened.setting("pad_token_id") == 1
    exchange(first, second)
    with pytest.raises(ReplacedExportError, match="replaced by another export"):
        opened.graph("model") if last == "graph" else opened.read("config.json")
    assert (Directory(first).setting("pad_token_id"), weight(Directory(first))) == (2, 2)


def test_while_another_thread_replaces_it(tmp_path: Path) -> None:
    first, second = export(tmp_path / "out", 1), export(tmp_path / "other", 2)
    ended = threading.Event()

    def replace() -> None:
        while not ended.wait(0.03):  # longer than opening takes, so that some succeed
            exchange(first, second)

    thread = threading.Thread(target=replace)
    thread.start()
    seen = set()
    try:
        for _ in range(100):
            try:
                opened = Directory(first, RunSettings(session_options=onnxruntime.SessionOptions()))
                seen.add((opened.setting("pad_token_id"), weight(opened)))
            except ReplacedExportError:
                continue
    finally:
        ended.set()
        thread.join()
    assert seen <= {(1, 1.0), (2, 2.0)}
    assert seen


def test_load_tries_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [ReplacedExportError("replaced")] * 3

    def flaky(*_: object, **__: object) -> str:
        if failures:
            raise failures.pop()
        return "loaded"

    monkeypatch.setattr(loading, "_load", flaky)
    assert loading.load(tmp_path) == "loaded"
    failures += [ReplacedExportError("replaced")] * 9
    with pytest.raises(ReplacedExportError):
        loading.load(tmp_path)
