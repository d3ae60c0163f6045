"""A full validation generates with the graphs, and compares the tokens with the original's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import onnxport
from conformance.checkpoints import randomize
from conformance.matrix.shrink import tiny_config
from onnxport.errors import ValidationError
from onnxport.runtime.decoder import Decoder
from onnxport.validation import tokens
from tests.breadth import sampled


def checkpoint_of(model_class: Any, directory: Path) -> Path:
    torch.manual_seed(0)
    model = model_class(tiny_config(model_class.config_class.model_type))
    randomize(model)
    model.save_pretrained(directory / "checkpoint")
    return directory / "checkpoint"


def token_cases(manifest: onnxport.Manifest) -> list[str]:
    return [case["name"] for case in manifest.validation["cases"] if "tokens" in case["name"]]


MODELS = ("LlamaForCausalLM", "MambaForCausalLM", "T5ForConditionalGeneration", "WhisperForConditionalGeneration")


@pytest.mark.parametrize("name", sampled(MODELS, ("LlamaForCausalLM", "T5ForConditionalGeneration")))
def test_graphs_generate_what_the_original_does(name: str, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(getattr(transformers, name), tmp_path)
    manifest = onnxport.export(checkpoint, tmp_path / "out").manifest
    assert token_cases(manifest) == ["32 tokens", "32 tokens, padded batch"]


@pytest.mark.wide
def test_an_original_in_half_precision_takes_the_audio_in_it(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(transformers.WhisperForConditionalGeneration, tmp_path)
    manifest = onnxport.export(checkpoint, tmp_path / "out", onnxport.ExportOptions(dtype="fp16")).manifest
    assert token_cases(manifest)


def test_another_token_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class WithoutPositions(Decoder):
        def step(self, feed: Any, cache: Any, prefix: int = 0) -> Any:
            first = {"position_ids": 0 * feed["input_ids"]}
            return super().step({**feed, **first}, cache, prefix)

    monkeypatch.setattr(tokens, "Decoder", WithoutPositions)
    checkpoint = checkpoint_of(transformers.LlamaForCausalLM, tmp_path)
    with pytest.raises(ValidationError, match=r"tokens: token \d+ of sequence \d is \d+, the original's is \d+"):
        onnxport.export(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_token_whose_logit_rounding_changes_may_be_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Least(Decoder):
        def step(self, feed: Any, cache: Any, prefix: int = 0) -> Any:
            return -super().step(feed, cache, prefix)

    monkeypatch.setattr(tokens, "Decoder", Least)
    monkeypatch.setattr("onnxport.validation.own_rounding.allowed_in_any_case", lambda *_: {"logits": 1e9})
    checkpoint = checkpoint_of(transformers.LlamaForCausalLM, tmp_path)
    onnxport.export(checkpoint, tmp_path / "out")


def test_a_decoder_without_a_head_takes_its_cache_and_generates_nothing(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(transformers.LlamaModel, tmp_path)
    options = onnxport.ExportOptions(task="feature-extraction-with-past")
    manifest = onnxport.export(checkpoint, tmp_path / "out", options).manifest
    names = [spec.name for spec in manifest.components[0].inputs]
    assert "past_key_values.0.key" in names
    assert "no past" in [case["name"] for case in manifest.validation["cases"]]
    assert not token_cases(manifest)


def test_a_quick_validation_generates_nothing(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(transformers.LlamaForCausalLM, tmp_path)
    manifest = onnxport.export(checkpoint, tmp_path / "out", onnxport.ExportOptions(validate="quick")).manifest
    assert not token_cases(manifest)
