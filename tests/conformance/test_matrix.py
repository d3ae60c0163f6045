"""The matrix of every model type and task: its pairs, tiny configurations by rule, a few exports, and its page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conformance.matrix.exports import run_matrix_pair
from conformance.matrix.page import reason, text_of, write_validated
from conformance.matrix.pairs import chosen, family, pairs
from conformance.matrix.predecessors import GONE, OPTIMUM, TRANSFORMERS, predecessors
from conformance.matrix.shrink import HEADS, LAYERS, VOCABULARY, WIDTH, tiny_config
from conformance.matrix.tiny import NoCheckpointError, checkpoint_of
from onnxport.description.tasks import PAST_SUFFIX, SENTENCE_SIMILARITY, TASKS


def test_every_task_has_pairs_of_a_family() -> None:
    tasks = {task.removesuffix(PAST_SUFFIX) for _, task in pairs()}
    assert tasks == {task.name for task in TASKS} - {SENTENCE_SIMILARITY}
    assert not [task for task in tasks if family(task) == "other"]
    assert len(pairs()) == len(set(pairs())) > 1900


def test_models_that_generate_have_a_pair_with_past() -> None:
    assert {("llama", "text-generation"), ("llama", "text-generation-with-past")} <= set(pairs())
    assert ("t5", "text2text-generation-with-past") in pairs()
    assert ("wav2vec2", "automatic-speech-recognition-with-past") not in pairs()
    assert ("rwkv", "text-generation-with-past") in pairs()
    assert ("reformer", "text-generation") in pairs()
    assert ("reformer", "text-generation-with-past") not in pairs()


def test_what_the_predecessors_had_is_part_of_it() -> None:
    theirs = predecessors()
    assert {name: len(found) for name, found in theirs.items()} == {OPTIMUM: 560, TRANSFORMERS: 265}
    assert set(theirs[TRANSFORMERS]) <= set(pairs())
    assert set(theirs[OPTIMUM]) - set(pairs()) == set(GONE)


def test_an_unknown_type_or_task_is_refused() -> None:
    assert chosen("fill-mask", "bert") == [("bert", "fill-mask")]
    with pytest.raises(ValueError, match="berd"):
        chosen("fill-mask", "bert,berd")


def test_widths_heads_and_layers_shrink_together() -> None:
    config = tiny_config("llama")
    assert (config.hidden_size, config.num_attention_heads) == (WIDTH, HEADS)
    assert (config.num_hidden_layers, config.vocab_size) == (LAYERS, VOCABULARY)
    assert config.hidden_size == config.head_dim * config.num_attention_heads


def test_parts_of_a_configuration_shrink_alike() -> None:
    config = tiny_config("llava")
    assert config.text_config.hidden_size == config.vision_config.hidden_size == WIDTH
    assert config.image_token_index < config.text_config.vocab_size


def test_a_kind_of_layer_that_comes_late_is_kept() -> None:
    config = tiny_config("gemma3_text")
    assert set(config.layer_types) == {"sliding_attention", "full_attention"}
    assert len(config.layer_types) == config.num_hidden_layers == LAYERS


def test_stages_of_a_backbone_move_to_where_they_are_among_few_layers() -> None:
    assert tiny_config("beit").out_features == [f"stage{number}" for number in range(1, LAYERS + 1)]


def test_a_checkpoint_is_made_once(tmp_path: Path) -> None:
    directory, facts = checkpoint_of("bert", "fill-mask", tmp_path)
    assert facts["repeated"] == LAYERS
    written = (directory / "model.safetensors").stat().st_mtime_ns
    assert checkpoint_of("bert", "fill-mask", tmp_path) == (directory, facts)
    assert (directory / "model.safetensors").stat().st_mtime_ns == written


def test_why_there_is_no_checkpoint_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("conformance.matrix.tiny.MOST_PARAMETERS", 10)
    with pytest.raises(NoCheckpointError, match="million parameters"):
        checkpoint_of("bert", "fill-mask", tmp_path)
    record = run_matrix_pair("bert", "fill-mask", tmp_path)
    assert (record["status"], record["category"]) == ("failed", "make")


def _record(task: str, **more: Any) -> dict[str, Any]:
    return {"model_type": "bert", "task": task, "status": "passed", "seconds": 60.0, **more}


def test_the_page_counts_and_gives_reasons() -> None:
    passed = _record("fill-mask", batch=True, length=True, stamped=True, repeated=4)
    failed = _record("text-classification", category="trace", message="no | \x1b[96mway\x1b[0m /a/b/model.onnx")
    failed["status"] = "failed"
    text = text_of([passed, failed], "2020-01-01", {"torch": "1"})
    assert "| (model type, task) pairs that export and validate | 1 | 2 | 50.0 % |" in text
    assert "| trace | no \\| way model.onnx | bert: text-classification |" in text
    assert "| optimum-onnx 0.1.0 | 553 | 1 | 0.2 % | albert:feature-extraction (not run), " in text
    assert "bert:text-classification (trace), " in text
    assert reason(failed) == "no \\| way model.onnx"


def test_what_the_command_lists_is_written(tmp_path: Path) -> None:
    passed = _record("fill-mask", fixed_axes=["input_ids: batch_size = 2"])
    failed = {**_record("text-classification", category="trace", message="no way"), "status": "failed"}
    write_validated([failed, passed], tmp_path / "proved.json")
    assert json.loads((tmp_path / "proved.json").read_text())["types"] == {
        "bert": {
            "tasks": ["fill-mask"],
            "failed": {"text-classification": "no way"},
            "fixed_axes": {"fill-mask": ["input_ids: batch_size = 2"]},
        }
    }


def test_a_class_that_transformers_names_and_has_not_is_no_pair() -> None:
    assert ("voxtral_realtime_text", "feature-extraction") not in pairs()
    assert ("voxtral_realtime_encoder", "feature-extraction") in pairs()
