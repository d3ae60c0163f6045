"""What `onnxport run` says for each task, with a session that returns what a test wants."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from conformance.preprocessors import make_tokenizer
from onnxport.bundles.manifest import ComponentDescription, Manifest
from onnxport.cli import _answers
from onnxport.cli._exported import Exported, open_exported
from onnxport.cli._feeds import Given, feed_of
from onnxport.errors import CheckpointNotFoundError, CorruptCheckpointError, OptionError, UnsupportedError
from onnxport.runtime.directory import Directory

Compute = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
IDS = ("input_ids", "attention_mask", "token_type_ids")


class Session:
    """Stand for a graph: `compute` maps its inputs to its outputs."""

    def __init__(self, inputs: dict[str, tuple[str, list[Any]]], outputs: list[str], compute: Compute) -> None:
        self.inputs, self.outputs, self.compute = inputs, outputs, compute
        self.fed: list[dict[str, np.ndarray]] = []

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name=name, type=kind, shape=shape) for name, (kind, shape) in self.inputs.items()]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name=name) for name in self.outputs]

    def run(self, names: list[str], feed: dict[str, np.ndarray], options: Any) -> list[np.ndarray]:
        self.fed.append(feed)
        results = self.compute(feed)
        return [results[name] for name in names]


def manifest(task: str, files: tuple[str, ...] = ("model.onnx",)) -> Manifest:
    components = tuple(ComponentDescription(file, file, (), 20, 0, 0, (), ()) for file in files)
    return Manifest(task, {}, {}, {}, components, {"status": "passed"})


def tokens(*names: str) -> dict[str, tuple[str, list[Any]]]:
    return {name: ("tensor(int64)", ["batch_size", "sequence_length"]) for name in names}


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Exported]:
    """Make an exported directory with a tokenizer of letters and a session."""

    def built(
        compute: Compute,
        outputs: tuple[str, ...] = ("logits",),
        inputs: dict[str, tuple[str, list[Any]]] | None = None,
        **config: Any,
    ) -> Exported:
        tokenizer: PreTrainedTokenizerFast = make_tokenizer("bert", 64, 2, "[UNK]", token_type_ids=True)
        tokenizer.save_pretrained(tmp_path)
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", **config}))
        (tmp_path / "onnxport.json").write_text(manifest("x").to_json())
        (tmp_path / "model.onnx").touch()
        return Exported(Directory(tmp_path), Session(inputs or tokens(*IDS), list(outputs), compute))

    return built


def one_hot(ids: np.ndarray, size: int) -> np.ndarray:
    return 10.0 * np.eye(size, dtype=np.float16)[ids]


def test_embeddings_ignore_padding(make: Callable[..., Exported]) -> None:
    exported = make(lambda feed: {"last_hidden_state": one_hot(feed["input_ids"], 64)}, ("last_hidden_state",))
    found = _answers.embeddings(exported, Given(texts=("ab", "ab", "abcdefgh")))
    similar = found.values["similarities"]
    assert similar[0][1] == pytest.approx(1)
    assert similar[0][2] < 0.95
    assert found.values["shape"] == [3, 10, 64]
    alone = _answers.embeddings(exported, Given(texts=("ab",))).values["embeddings"][0]
    np.testing.assert_allclose(found.values["embeddings"][0], alone, rtol=1e-6)
    assert "similarity 1-2: 1.0000" in found.lines


def test_fill_mask(make: Callable[..., Exported]) -> None:
    exported = make(lambda feed: {"logits": one_hot(np.full_like(feed["input_ids"], 20), 64)})
    tokenizer = exported.load("AutoTokenizer")
    found = _answers.fill_mask(exported, Given(texts=("ab[MASK]", "[MASK]")))
    expected = tokenizer.decode([20]).strip()
    assert [(entry["text"], entry["token"]) for entry in found.values] == [(0, 3), (1, 1)]
    assert [entry["best"][0]["label"] for entry in found.values] == [expected] * 2
    assert len(found.values[0]["best"]) == 5
    with pytest.raises(OptionError, match=r"put \[MASK\]"):
        _answers.fill_mask(exported, Given(texts=("ab",)))


def test_fill_mask_without_a_tokenizer(make: Callable[..., Exported]) -> None:
    exported = make(lambda feed: {"logits": one_hot(feed["input_ids"] + 1, 64)})
    for file in exported.directory.path.glob("tokenizer*"):
        file.unlink()
    found = _answers.fill_mask(exported, Given(input_ids=(7, 8)))
    assert [entry["best"][0]["label"] for entry in found.values] == ["8", "9"]
    with pytest.raises(CheckpointNotFoundError, match="--input-ids"):
        _answers.fill_mask(exported, Given(texts=("ab",)))


def test_classes_are_named(make: Callable[..., Exported]) -> None:
    def compute(feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"logits": np.array([[0.0, 3.0, -3.0]] * len(feed["input_ids"]), dtype=np.float32)}

    exported = make(compute, id2label={"0": "sad", "1": "glad"})
    found = _answers.classes(exported, Given(texts=("a", "b"), pairs=("c", "d")))
    assert [entry["label"] for entry in found.values[0]] == ["glad", "sad", "2"]
    assert sum(entry["score"] for entry in found.values[0]) == pytest.approx(1)
    assert len(found.lines) == 2
    assert exported.session.fed[0]["token_type_ids"].max() == 1
    several = make(compute, problem_type="multi_label_classification")
    assert _answers.classes(several, Given(texts=("a",))).values[0][0]["score"] == pytest.approx(1 / (1 + np.exp(-3)))


def test_a_single_class_is_a_score(make: Callable[..., Exported]) -> None:
    exported = make(lambda feed: {"logits": np.array([[-2.5]], dtype=np.float32)})
    assert _answers.classes(exported, Given(texts=("a",))).values[0][0]["score"] == -2.5


def test_tokens_without_the_tokenizers_own(make: Callable[..., Exported]) -> None:
    exported = make(lambda feed: {"logits": one_hot(feed["input_ids"] % 2, 2)}, id2label={"0": "even", "1": "odd"})
    found = _answers.tokens(exported, Given(texts=("ab", "abcd")))
    assert [len(row) for row in found.values] == [2, 4]
    assert {entry["label"] for entry in found.values[1]} == {"even", "odd"}
    assert found.lines[0].startswith("a/")


def test_the_answer_is_a_part_of_the_context(make: Callable[..., Exported]) -> None:
    def compute(feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        start, end = np.zeros(feed["input_ids"].shape), np.zeros(feed["input_ids"].shape)
        start[:, 1] = end[:, 2] = 9  # the question: not an answer
        start[:, 6], end[:, 7] = 5, 5
        return {"start_logits": start.astype(np.float32), "end_logits": end.astype(np.float32)}

    exported = make(compute, ("start_logits", "end_logits"))
    found = _answers.span(exported, Given(texts=("efgh", "efghij"), question="abc"))
    assert [value["answer"].replace(" ", "") for value in found.values] == ["fg", "fg"]
    assert found.values[0]["start"] == 6
    with pytest.raises(OptionError, match="--question"):
        _answers.span(exported, Given(texts=("x",)))


def test_choices(make: Callable[..., Exported]) -> None:
    def compute(feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert feed["input_ids"].ndim == 3
        return {"logits": np.array([[0.0, 2.0]], dtype=np.float32)}

    found = _answers.choices(make(compute), Given(texts=("a", "a"), pairs=("b", "c")))
    assert found.values[0]["label"] == "choice 2"


def counting(feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Say that the next token is the last one's number plus one."""
    return {"logits": one_hot(feed.get("decoder_input_ids", feed["input_ids"]) + 1, 64)}


def test_what_is_not_given_is_that_of_a_plain_text(make: Callable[..., Exported]) -> None:
    cache = {"past_key_values.0.key": ("tensor(float16)", ["batch_size", 2, "past_sequence_length", 4])}
    names = ("input_ids", "attention_mask", "position_ids", "decoder_input_ids")
    exported = make(counting, inputs={**tokens(*names), **cache}, decoder_start_token_id=9)
    assert exported.run({"input_ids": np.ones((2, 3))})["logits"].argmax(axis=-1).tolist() == [[10], [10]]
    (feed,) = exported.session.fed
    assert feed["attention_mask"].tolist() == [[1, 1, 1]] * 2
    assert feed["position_ids"].tolist() == [[0, 1, 2]] * 2
    assert feed["past_key_values.0.key"].shape == (2, 2, 0, 4)
    assert feed["past_key_values.0.key"].dtype == np.float16


def test_an_encoders_cache_cannot_be_made_up(make: Callable[..., Exported]) -> None:
    inputs = {**tokens("input_ids"), "past_key_values.0.encoder.key": ("tensor(float)", ["batch_size", 2, "e", 4])}
    with pytest.raises(UnsupportedError, match="without -with-past"):
        make(counting, inputs=inputs).run({"input_ids": np.ones((1, 2))})


def test_what_the_graph_needs_and_the_user_did_not_give(make: Callable[..., Exported]) -> None:
    exported = make(counting, inputs={**tokens("input_ids"), "bbox": ("tensor(int64)", [])})
    with pytest.raises(OptionError, match="needs bbox"):
        exported.run({"input_ids": np.ones((1, 2))})
    odd = make(counting, inputs={"input_ids": ("tensor(bfloat16)", [])})
    with pytest.raises(OptionError, match="bfloat16"):
        odd.run({"input_ids": np.ones((1, 2))})


def test_damaged_settings(make: Callable[..., Exported]) -> None:
    exported = make(counting)
    for text in ("{", "[]"):
        (exported.directory.path / "config.json").write_text(text)
        with pytest.raises(CorruptCheckpointError, match=r"config\.json"):
            exported.label(0)


def test_directories_that_cannot_be_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="no such directory"):
        Directory(tmp_path / "none")
    with pytest.raises(CheckpointNotFoundError, match=r"no onnxport\.json"):
        Directory(tmp_path)
    (tmp_path / "onnxport.json").write_text(manifest("x", ("a.onnx", "b.onnx")).to_json())
    with pytest.raises(CheckpointNotFoundError, match=r"lacks a\.onnx"):
        Directory(tmp_path)
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).touch()
    with pytest.raises(UnsupportedError, match=r"a\.onnx, b\.onnx"):
        open_exported(Directory(tmp_path))
    (tmp_path / "onnxport.json").write_text(manifest("x").to_json())
    (tmp_path / "model.onnx").write_bytes(b"\x08")
    with pytest.raises(CorruptCheckpointError, match=r"model\.onnx isn't a readable ONNX file"):
        open_exported(Directory(tmp_path))
    (tmp_path / "onnxport.json").write_text("{")
    with pytest.raises(CorruptCheckpointError, match=rf"{tmp_path}: onnxport\.json is damaged"):
        Directory(tmp_path)


def test_a_text_for_a_graph_that_takes_none(make: Callable[..., Exported]) -> None:
    exported = make(counting, inputs={"pixel_values": ("tensor(float)", [1, 3, 4, 4])})
    with pytest.raises(OptionError, match="takes no text, its inputs are pixel_values: give --image"):
        feed_of(exported, Given(texts=("hi",)))
