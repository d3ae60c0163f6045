"""One module knows what differs between the versions of Transformers."""

from __future__ import annotations

import ast
import inspect
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import onnxport
from conformance.checkpoints import make_checkpoint
from onnxport import _transformers_api as api
from onnxport.options import ExportOptions

SOURCE = Path(onnxport.__file__).parent


def parameters(function: Any) -> Any:
    return inspect.signature(function).parameters


def test_the_cache_parameter_is_found_by_its_name_or_annotation() -> None:
    def today(input_ids: Any, cache: Any = None) -> None: ...
    def before(input_ids: Any, past_key_values: Any = None) -> None: ...
    def mamba(input_ids: Any, cache_params: Any = None) -> None: ...
    def renamed(input_ids: Any, memory: Cache | None = None) -> None: ...  # type: ignore[name-defined] # noqa: F821
    def dictionary(input_ids: Any, cache: dict[str, Any] | None = None) -> None: ...
    def without(input_ids: Any) -> None: ...

    functions = (today, before, mamba, renamed, dictionary, without)
    found = [api.cache_parameter(parameters(function)) for function in functions]
    assert found == ["cache", "past_key_values", "cache_params", "memory", None, None]


def test_a_model_is_called_and_returns_its_cache_under_the_name_of_the_graphs() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=9)).eval()
    first = api.call_forward(model, {"input_ids": torch.tensor([[1, 2]]), "use_cache": True})
    assert first.keys() == {"logits", "past_key_values"}
    second = api.call_forward(model, {"input_ids": torch.tensor([[3]]), "past_key_values": first["past_key_values"]})
    whole = api.call_forward(model, {"input_ids": torch.tensor([[1, 2, 3]])})
    torch.testing.assert_close(second["logits"][:, -1], whole["logits"][:, -1])


def test_a_version_newer_than_tested_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = make_checkpoint("bert", "default", tmp_path)
    options = ExportOptions(validate="none", dry_run=True)
    with caplog.at_level(logging.WARNING, logger="onnxport"):
        onnxport.export(checkpoint, tmp_path / "out", options)
        assert not caplog.messages
        monkeypatch.setattr(api, "TESTED_VERSIONS", ("5.0", "5.1"))
        onnxport.export(checkpoint, tmp_path / "out", options)
    assert "is installed" in caplog.messages[0]


def test_nothing_else_knows_the_names_or_the_version() -> None:
    def texts(path: Path) -> set[str]:
        tree = ast.parse(path.read_text())
        return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}

    others = [path for path in SOURCE.rglob("*.py") if path.name != "_transformers_api.py"]
    assert not [path for path in others if "cache_params" in texts(path)]
    assert not [path for path in others if 'version("transformers")' in path.read_text()]
