"""The parameters that graphs leave out: each one is listed with its rule in docs/interfaces.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conformance.exports import FAILED, PASSED
from conformance.matrix.classes import classes
from conformance.matrix.interfaces import PAGE, describe_class, publish, rule_of

LISTED = json.loads(PAGE.with_suffix(".json").read_text(encoding="utf-8"))
SAMPLE = (
    *("BertForPreTraining", "BartForConditionalGeneration", "LlamaForCausalLM", "GPT2LMHeadModel", "XLMModel"),
    *("ViTForMaskedImageModeling", "Wav2Vec2Model", "WhisperForConditionalGeneration", "SamModel", "OwlViTModel"),
    *("LlavaForConditionalGeneration", "Qwen2VLForConditionalGeneration", "XmodModel", "InformerModel"),
)


@pytest.mark.parametrize("name", SAMPLE)
def test_what_a_class_leaves_out_is_listed(name: str, tmp_path: Path) -> None:
    model_type = {name: model_type for model_type, name in classes()}[name]
    record = describe_class(model_type, name, tmp_path)
    assert record["status"] == PASSED
    assert {rule: parameter for parameter, rule in record["left_out"].items() if parameter not in LISTED[rule]} == {}
    assert not (tmp_path / "checkpoints" / name).exists()


def test_no_tensor_is_left_out_without_a_rule_but_of_the_classes_that_the_page_lists() -> None:
    failed = PAGE.read_text(encoding="utf-8").partition("## Classes without their whole interface")[2]
    for rule, parameters in LISTED.items():
        assert not rule.startswith("not described yet") or all(name in failed for name in parameters)


def test_a_rule_has_no_values_of_a_class() -> None:
    assert rule_of("an option of forward: the graph has its value None") == "an option of forward"
    assert rule_of("a cache: fill-mask-with-past has it") == "a cache"
    assert rule_of("a cache of earlier segments: a graph computes one segment").startswith("a cache of earlier")


def test_the_page_has_the_classes_that_fail(tmp_path: Path) -> None:
    records = [
        {"class": "BertModel", "status": PASSED, "left_out": {"labels": "for training"}, "commit": "0"},
        {"class": "OddModel", "status": FAILED, "message": "not inputs: odd", "left_out": {"odd": "?"}, "commit": "0"},
    ]
    publish(records, tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert "1 of 2 classes (50.0 %)" in text
    assert "| OddModel | not inputs: odd |" in text
    assert "| for training | `labels` 1 |" in text
    assert json.loads((tmp_path / "page.json").read_text())["for training"] == {"labels": 1}
