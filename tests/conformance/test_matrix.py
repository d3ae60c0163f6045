"""The matrix of model types and tasks: its pairs, tiny configurations, a few exports, and its page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conformance.matrix.eager import eager_failure
from conformance.matrix.exports import run_matrix_pair
from conformance.matrix.interface import MODALITIES, missing_modalities
from conformance.matrix.page import reason, text_of, write_validated
from conformance.matrix.pairs import chosen, family, pairs
from conformance.matrix.predecessors import GONE, OPTIMUM, TRANSFORMERS, predecessors
from conformance.matrix.sample import SAMPLE, WIDE
from conformance.matrix.shrink import HEADS, LAYERS, VOCABULARY, WIDTH, tiny_config
from conformance.matrix.tiny import NoCheckpointError, checkpoint_of
from onnxport.description.tasks import PAST_SUFFIX, SENTENCE_SIMILARITY, TASKS

NOT_SAMPLED = {"keypoint-detection", "keypoint-matching"}
"""Tasks without a pair of the matrix that passes with a dynamic batch size."""


@pytest.mark.wide  # listing the pairs imports every model of Transformers
def test_every_task_has_pairs_of_a_family() -> None:
    tasks = {task.removesuffix(PAST_SUFFIX) for _, task in pairs()}
    assert tasks == {task.name for task in TASKS if task.auto_classes} - {SENTENCE_SIMILARITY}
    assert not [task for task in tasks if family(task) == "other"]
    assert len(pairs()) == len(set(pairs())) > 1900


@pytest.mark.wide
def test_models_that_generate_have_a_pair_with_past() -> None:
    assert {("llama", "text-generation"), ("llama", "text-generation-with-past")} <= set(pairs())
    assert ("t5", "text2text-generation-with-past") in pairs()
    assert ("wav2vec2", "automatic-speech-recognition-with-past") not in pairs()
    assert ("rwkv", "text-generation-with-past") in pairs()
    assert ("reformer", "text-generation") in pairs()
    assert ("reformer", "text-generation-with-past") not in pairs()


def test_the_sample_has_every_task() -> None:
    tasks = {task.removesuffix(PAST_SUFFIX) for _, task in WIDE}
    assert tasks == {task.name for task in TASKS if task.auto_classes} - NOT_SAMPLED - {SENTENCE_SIMILARITY}


@pytest.mark.wide
def test_the_samples_are_part_of_it() -> None:
    assert set(SAMPLE) <= set(WIDE) <= set(pairs())
    assert len({model_type for model_type, _ in WIDE}) >= 100


@pytest.mark.wide
def test_the_pairs_of_the_predecessors_are_part_of_it() -> None:
    theirs = predecessors()
    assert {name: len(found) for name, found in theirs.items()} == {OPTIMUM: 560, TRANSFORMERS: 265}
    assert set(theirs[TRANSFORMERS]) <= set(pairs())
    assert set(theirs[OPTIMUM]) - set(pairs()) == set(GONE)


@pytest.mark.wide
def test_an_unknown_type_or_task_is_an_error() -> None:
    assert chosen("fill-mask", "bert") == [("bert", "fill-mask")]
    with pytest.raises(ValueError, match="berd"):
        chosen("fill-mask", "bert,berd")


def test_widths_heads_and_layers_shrink_together() -> None:
    config = tiny_config("llama")
    assert (config.hidden_size, config.num_attention_heads) == (WIDTH, HEADS)
    assert (config.num_hidden_layers, config.vocab_size) == (LAYERS, VOCABULARY)
    assert config.hidden_size == config.head_dim * config.num_attention_heads


def test_subconfigurations_shrink_to_the_same_sizes() -> None:
    config = tiny_config("llava")
    assert config.text_config.hidden_size == config.vision_config.hidden_size == WIDTH
    assert config.image_token_index < config.text_config.vocab_size


def test_a_layer_type_of_later_layers_is_kept() -> None:
    config = tiny_config("gemma3_text")
    assert set(config.layer_types) == {"sliding_attention", "full_attention"}
    assert len(config.layer_types) == config.num_hidden_layers == LAYERS


def test_stages_of_a_backbone_are_mapped_to_few_layers() -> None:
    assert tiny_config("beit").out_features == [f"stage{number}" for number in range(1, LAYERS + 1)]


def test_a_checkpoint_is_written_once(tmp_path: Path) -> None:
    directory, facts = checkpoint_of("bert", "fill-mask", tmp_path)
    assert facts["repeated"] == LAYERS
    written = (directory / "model.safetensors").stat().st_mtime_ns
    assert checkpoint_of("bert", "fill-mask", tmp_path) == (directory, facts)
    assert (directory / "model.safetensors").stat().st_mtime_ns == written


def test_the_reason_for_a_missing_checkpoint_is_recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("conformance.matrix.tiny.MOST_PARAMETERS", 10)
    with pytest.raises(NoCheckpointError, match="million parameters"):
        checkpoint_of("bert", "fill-mask", tmp_path)
    record = run_matrix_pair("bert", "fill-mask", tmp_path)
    assert (record["status"], record["category"]) == ("failed", "make")


def _record(task: str, **more: Any) -> dict[str, Any]:
    return {"model_type": "bert", "task": task, "status": "passed", "commit": "abc", "seconds": 60.0, **more}


def test_the_page_has_counts_and_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    two = (("bert", "fill-mask"), ("bert", "text-classification"))
    monkeypatch.setattr("conformance.matrix.page.pairs", lambda: two)
    passed = _record("fill-mask", batch=True, length=True, stamped=True, repeated=4)
    failed = _record("text-classification", category="trace", message="no | \x1b[96mway\x1b[0m /a/b/model.onnx")
    failed["status"] = "failed"
    text = text_of([passed, failed], "2020-01-01", {"torch": "1"})
    assert "Run at commit abc, 2020-01-01, with torch 1: 2 of 2 pairs." in text
    assert "| (model type, task) pairs that export and validate | 1 | 2 | 50.0 % |" in text
    assert "| trace | no \\| way model.onnx | bert: text-classification |" in text
    assert "| optimum-onnx 0.1.0 | 553 | 1 | 0.2 % | albert:feature-extraction (not run), " in text
    assert "bert:text-classification (trace), " in text
    assert reason(failed) == "no \\| way model.onnx"


def test_the_data_of_the_command_list_is_written(tmp_path: Path) -> None:
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


@pytest.mark.wide
def test_a_class_that_transformers_lacks_is_no_pair() -> None:
    assert ("voxtral_realtime_text", "feature-extraction") not in pairs()
    assert ("voxtral_realtime_encoder", "feature-extraction") in pairs()


@pytest.mark.parametrize(
    ("pair", "inputs", "missing"),
    [
        (("llava", "image-to-text"), ["input_ids", "attention_mask"], ["image"]),
        (("llava", "image-to-text-with-past"), ["pixel_values", "input_ids", "inputs_embeds"], []),
        (("glmasr", "audio-text-to-text"), ["input_ids", "image_sizes"], ["audio"]),
        (("blip", "visual-question-answering"), ["pixel_values"], ["text"]),
        (("dia", "automatic-speech-recognition"), ["input_ids", "decoder_input_ids"], []),
        (("bert", "fill-mask"), ["input_ids"], []),
    ],
)
def test_a_task_s_modalities_are_among_the_inputs(pair: tuple[str, str], inputs: list[str], missing: list[str]) -> None:
    assert missing_modalities(*pair, inputs) == missing


def test_every_task_with_modalities_exists() -> None:
    assert set(MODALITIES) <= {task.name for task in TASKS}


def test_a_text_only_graph_of_a_task_with_images_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    manifest = {"components": [{"inputs": [{"name": "input_ids"}]}]}

    def export(arguments: list[str]) -> tuple[int, str]:
        Path(arguments[2]).mkdir()
        (Path(arguments[2]) / "onnxport.json").write_text(json.dumps(manifest))
        return 0, ""

    monkeypatch.setattr("conformance.matrix.exports.command", export)
    monkeypatch.setattr("conformance.matrix.exports.checkpoint_of", lambda *_: (tmp_path, {}))
    record = run_matrix_pair("git", "image-to-text", tmp_path)
    assert (record["status"], record["category"]) == ("failed", "interface")
    assert record["message"] == "no graph takes image: the inputs are input_ids"


def test_channels_that_are_added_to_hidden_states_have_their_size() -> None:
    audio = tiny_config("phi4_multimodal").audio_config
    assert audio.ext_pw_out_channel == audio.depthwise_separable_out_channel == audio.hidden_size


class _Encoder:
    """A model whose image encoder fails."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def get_image_features(self, pixel_values: Any) -> None:
        assert pixel_values.ndim == 4
        raise self.error


def test_the_error_of_a_tiny_model_that_fails_eagerly_is_returned(tmp_path: Path) -> None:
    import transformers

    transformers.ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    found = eager_failure(_Encoder(RuntimeError("mat1 and mat2 shapes\ncannot be multiplied")), tmp_path)
    assert found == "get_image_features: RuntimeError: mat1 and mat2 shapes cannot be multiplied"
    assert eager_failure(_Encoder(TypeError("image_grid_thw")), tmp_path) == ""
    assert eager_failure(object(), tmp_path) == ""


@pytest.mark.parametrize(
    ("category", "eager", "expected"),
    [("trace", "get_audio_features: no", "make"), ("trace", "", "trace"), ("interface", "no", "interface")],
)
def test_a_broken_tiny_model_is_no_failure_of_the_export(
    category: str, eager: str, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    failure = {"status": "failed", "category": category, "message": "why"}
    monkeypatch.setattr("conformance.matrix.exports._export", lambda *_: dict(failure))
    monkeypatch.setattr("conformance.matrix.exports.checkpoint_of", lambda *_: (tmp_path, {"eager_failure": eager}))
    assert run_matrix_pair("voxtral", "audio-text-to-text", tmp_path)["category"] == expected
