"""The command `onnxport cache`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from onnxport.blueprints.store import Store
from onnxport.cli import main


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A cache with a new entry and one that was last used ten days ago."""
    monkeypatch.setenv("ONNXPORT_CACHE", str(tmp_path / "cache"))
    created = Store()
    created.put("new", "blueprint", "BertForMaskedLM, fill-mask", b"x" * 2000)
    created.put("old", "blueprint", "GPT2LMHeadModel, [text]", b"x" * 1000)
    before = time.time() - 10 * 86400
    os.utime(created._path("old"), (before, before))
    return created


def test_list(store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # set by test runners; output that isn't a terminal isn't truncated
    assert main(["cache", "list"]) == 0
    text = capsys.readouterr().out
    assert text.index("BertForMaskedLM, fill-mask") < text.index("GPT2LMHeadModel, [text]")
    assert f"{store.directory}: 2 entries, 3.3 kB" in text


def test_list_as_json(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["directory"] == str(store.directory)
    assert [entry["key"] for entry in found["entries"]] == ["new", "old"]
    assert found["bytes"] == sum(entry["bytes"] for entry in found["entries"])
    assert set(found["entries"][0]) == {"key", "type", "label", "bytes", "created", "used"}
    assert found["entries"][0]["created"].endswith("+00:00")


def test_a_damaged_entry_is_listed(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    os.truncate(store._path("old"), 7)
    assert main(["cache", "list"]) == 0
    assert "it is truncated" in " ".join(capsys.readouterr().out.split())


def test_clear(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "clear", "--older-than", "2.5"]) == 0
    assert f"{store.directory}: removed 1 entry, 1.2 kB" in capsys.readouterr().out
    assert [entry.key for entry in store.entries()] == ["new"]
    assert main(["cache", "clear", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["entries"] == 1
    assert store.entries() == ()


def test_an_empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ONNXPORT_CACHE", str(tmp_path / "none"))
    assert main(["cache", "clear"]) == 0
    assert main(["cache", "list"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/none: removed 0 entries, 0 B\n{tmp_path}/none: 0 entries, 0 B\n"


def test_a_cache_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ONNXPORT_CACHE", str(tmp_path / "file"))
    assert main(["cache", "list"]) == 1
    assert capsys.readouterr().err == f"onnxport: error: {tmp_path}/file: Not a directory\n"


def test_torch_and_transformers_are_not_imported(store: Store) -> None:
    heavy = ("torch", "transformers", "onnxruntime", "onnx", "onnx_ir", "numpy", "huggingface_hub")
    code = (
        "import sys\nfrom onnxport.cli import main\n"
        "assert main(['cache', 'list']) == 0 and main(['cache', 'clear']) == 0\n"
        f"loaded = [name for name in {heavy!r} if name in sys.modules]\nassert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
