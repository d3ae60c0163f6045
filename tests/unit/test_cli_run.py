"""Results of `onnxport run` for each task, on directories with small graphs whose outputs are known."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from conformance.preprocessors import make_tokenizer
from onnxport.bundles.manifest import ComponentDescription, Manifest, TensorDescription
from onnxport.cli import main
from onnxport.errors import CheckpointNotFoundError, CorruptCheckpointError
from onnxport.runtime.directory import Directory

VOCABULARY = 64
Tables = dict[str, np.ndarray]
TEXT = ("input_ids", "attention_mask", "token_type_ids")
ARCHITECTURES = {
    "text-classification": "BertForSequenceClassification",
    "token-classification": "BertForTokenClassification",
    "fill-mask": "BertForMaskedLM",
}
"""Class names that Transformers' pipelines accept."""


def graph_of(inputs: dict[str, list[Any]], outputs: tuple[str, ...], nodes: list[Any], tables: Tables) -> Any:
    """Build a graph; it may have unused inputs."""
    floats = ("pixel_values", "past_key_values.0.key")
    types = {name: TensorProto.FLOAT if name in floats else TensorProto.INT64 for name in inputs}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, types[name], shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in tables.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def per_token(table: np.ndarray, source: str = "input_ids", output: str = "logits") -> dict[str, Any]:
    """Return the arguments of `graph_of` for a graph that maps each token id to a row of a table."""
    node = helper.make_node("Gather", ["table", source], [output])
    return {"outputs": (output,), "nodes": [node], "tables": {"table": table}}


def per_sequence(table: np.ndarray, source: str = "input_ids", output: str = "logits", axis: int = 1) -> dict[str, Any]:
    """Return the arguments of `graph_of` for a graph that maps each sequence to the maximum of its rows of a table."""
    rows = helper.make_node("Gather", ["table", source], ["rows"])
    largest = helper.make_node("ReduceMax", ["rows", "axis"], [output], keepdims=0)
    return {"outputs": (output,), "nodes": [rows, largest], "tables": {"table": table, "axis": np.array([axis])}}


def tokens(*names: str) -> dict[str, list[Any]]:
    return {name: ["batch_size", "sequence_length"] for name in names}


def write_manifest(directory: Path, task: str, inputs: dict[str, list[Any]], files: tuple[str, ...]) -> None:
    described = tuple(TensorDescription(name, "int64", tuple(axes)) for name, axes in inputs.items())
    components = tuple(
        ComponentDescription(file.removesuffix(".onnx"), file, (), 18, 0, 0, described, ()) for file in files
    )
    manifest = Manifest(
        task, {"architecture": ARCHITECTURES.get(task, "BertModel")}, {}, {}, components, {"status": "passed"}
    )
    (directory / "onnxport.json").write_text(manifest.to_json())


Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write an exported directory with a character tokenizer."""

    def made(task: str, parts: dict[str, Any], inputs: dict[str, list[Any]] | None = None, **config: Any) -> Path:
        inputs = inputs or tokens(*TEXT)
        make_tokenizer("bert", VOCABULARY, 2, "[UNK]", token_type_ids=True).save_pretrained(tmp_path)
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "vocab_size": VOCABULARY, **config}))
        write_manifest(tmp_path, task, inputs, ("model.onnx",))
        onnx.save(graph_of(inputs, **parts), tmp_path / "model.onnx")  # noqa: TID251
        return tmp_path

    return made


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run the command, and return its JSON and its lines."""

    def ran(directory: Path, *arguments: str) -> tuple[Any, list[str]]:
        assert main(["run", str(directory), "--json", *arguments]) == 0
        values = json.loads(capsys.readouterr().out)
        assert main(["run", str(directory), *arguments]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return values, captured.out.splitlines()

    return ran


@pytest.fixture
def fail(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command, and return its error."""

    def failed(code: int, directory: Path, *arguments: str) -> str:
        assert main(["run", str(directory), *arguments]) == code
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    return failed


EYE = 10 * np.eye(VOCABULARY, dtype=np.float32)


def test_embeddings_and_similarities(make: Make, run: Callable[..., Any]) -> None:
    directory = make("feature-extraction", per_token(EYE, output="last_hidden_state"))
    values, lines = run(directory, "--text", "ab", "--text", "ab", "--text", "abcdefgh")
    similarities = values["similarities"]
    assert similarities[0][1] == pytest.approx(1)
    assert similarities[0][2] < 0.95
    assert values["shape"] == [3, VOCABULARY]
    alone, _ = run(directory, "--text", "ab")
    np.testing.assert_allclose(values["embeddings"][0], alone["embeddings"][0], rtol=1e-6)
    assert "similarity 1-2: 1.0000" in lines


def test_a_zero_vector_has_no_similarity(make: Make, run: Callable[..., Any]) -> None:
    parts = per_sequence(np.zeros((VOCABULARY, 4), dtype=np.float32), output="sentence_embedding")
    values, lines = run(make("sentence-similarity", parts), "--text", "ab", "--text", "cd")
    assert values["similarities"] == [[None, None], [None, None]]
    assert lines[-1] == "similarity 1-2: undefined, an embedding is zero"


def test_sentence_embeddings(make: Make, run: Callable[..., Any]) -> None:
    directory = make("sentence-similarity", per_sequence(EYE, output="sentence_embedding"))
    values, lines = run(directory, "--text", "ab", "--text", "ba", "--text", "cdefgh")
    assert values["shape"] == [3, VOCABULARY]
    assert lines[-3:-1] == ["similarity 1-2: 1.0000", f"similarity 1-3: {values['similarities'][0][2]:.4f}"]
    assert values["similarities"][0][2] < 0.9
    (directory / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 3}))
    values, _ = run(directory, "--text", "ab", "--text", "ac")  # [CLS] a [SEP] each
    assert values["similarities"][0][1] == pytest.approx(1)


def test_scores_of_pairs(make: Make, run: Callable[..., Any], fail: Callable[..., str]) -> None:
    directory = make("text-ranking", per_sequence(LOGITS[:, :1], output="scores"))
    values, lines = run(directory, "--text", "a", "--text-pair", "b", "--text", "c", "--text-pair", "d")
    assert np.shape(values["scores"]) == (2, 1)
    assert lines[0] == f"pair 1: {values['scores'][0][0]:.4f}"
    assert "pass --text-pair with each --text" in fail(2, directory, "--text", "ab")


def test_scores_of_late_interaction(make: Make, run: Callable[..., Any]) -> None:
    parts = per_token(EYE / 10, output="token_embeddings")
    masks = ("query_mask", "document_mask")
    nodes = [helper.make_node("Cast", ["attention_mask"], [name], to=TensorProto.FLOAT) for name in masks]
    parts = {**parts, "outputs": (*parts["outputs"], *masks), "nodes": [*parts["nodes"], *nodes]}
    directory = make("sentence-similarity", parts)
    values, lines = run(directory, "--text", "ab", "--text", "bcd")  # [CLS] and [SEP] are in both
    assert values["scores"] == [[4, 3], [3, 5]]
    assert lines[1] == "query 1, document 2: 3.0000"


def test_fill_mask(make: Make, run: Callable[..., Any], fail: Callable[..., str]) -> None:
    directory = make("fill-mask", per_token(np.tile(EYE[20], (VOCABULARY, 1))))
    values, lines = run(directory, "--text", "ab[MASK]", "--text", "[MASK]a[MASK]")
    assert [len(masks) for masks in values] == [1, 2]
    assert {best[0]["token"] for masks in values for best in masks} == {20}
    assert len(values[0][0]) == 5
    assert [line.partition(":")[0] for line in lines] == ["text 1, mask 1", "text 2, mask 1", "text 2, mask 2"]
    assert "put [MASK]" in fail(2, directory, "--text", "ab")


def test_settings_of_generation_for_another_task(make: Make, fail: Callable[..., str]) -> None:
    directory = make("fill-mask", per_token(EYE))
    assert "--top-k can't be used with an export for fill-mask: leave it out" in fail(
        2, directory, "--text", "[MASK]", "--top-k", "3"
    )
    assert "--question doesn't apply to fill-mask" in fail(2, directory, "--text", "[MASK]", "--question", "a")


def test_token_ids_need_no_tokenizer(make: Make, run: Callable[..., Any], fail: Callable[..., str]) -> None:
    directory = make("fill-mask", per_token(np.roll(EYE, 1, axis=1)))
    for file in directory.glob("tokenizer*"):
        file.unlink()
    values, lines = run(directory, "--input-ids", "7,8")
    assert [best[0]["label"] for best in values["top"]] == ["8", "9"]
    assert lines[0].startswith(f"logits [1, 2, {VOCABULARY}]: ")
    assert "has no tokenizer" in fail(1, directory, "--text", "ab")


LOGITS = np.tile(np.array([0.0, 3.0, -3.0], dtype=np.float32), (VOCABULARY, 1))


def test_classes_are_named(make: Make, run: Callable[..., Any]) -> None:
    names = {"0": "sad", "1": "glad", "2": "neither"}
    directory = make("text-classification", per_sequence(LOGITS), id2label=names)
    pair = ("--text", "a", "--text", "b", "--text-pair", "c", "--text-pair", "d")
    values, lines = run(directory, *pair)
    assert [entry["label"] for entry in values[0]] == ["glad", "sad", "neither"]
    assert sum(entry["score"] for entry in values[0]) == pytest.approx(1)
    assert lines[0].startswith("glad 0.9")
    assert len(lines) == 2
    make("text-classification", per_sequence(LOGITS), id2label=names, problem_type="multi_label_classification")
    values, _ = run(directory, "--text", "a")
    assert values[0][0]["score"] == pytest.approx(1 / (1 + np.exp(-3)))


def test_the_second_text_has_its_own_token_type(make: Make, run: Callable[..., Any]) -> None:
    table = np.array([[0.0, 1.0], [9.0, 1.0]], dtype=np.float32)
    parts = per_sequence(table, source="token_type_ids")
    directory = make("text-classification", parts, id2label={"0": "pair", "1": "single"})
    values, _ = run(directory, "--text", "a", "--text-pair", "b")
    assert values[0][0]["label"] == "pair"
    values, _ = run(directory, "--text", "a")
    assert values[0][0]["label"] == "single"


def test_a_single_class_is_a_score(make: Make, run: Callable[..., Any]) -> None:
    table = np.full((VOCABULARY, 1), -2.5, dtype=np.float32)
    values, _ = run(make("text-classification", per_sequence(table), id2label={"0": "score"}), "--text", "a")
    assert values[0][0]["score"] == -2.5


def test_tokens_without_special_tokens(make: Make, run: Callable[..., Any]) -> None:
    table = np.array([EYE[index % 2, :2] for index in range(VOCABULARY)])
    directory = make("token-classification", per_token(table), id2label={"0": "even", "1": "odd"})
    values, lines = run(directory, "--text", "ab", "--text", "abcd")
    assert [len(row) for row in values] == [2, 4]
    assert {token["entity"] for token in values[1]} == {"even", "odd"}
    assert lines[0].startswith("a/")


def test_the_answer_is_a_span_of_the_context(make: Make, run: Callable[..., Any], fail: Callable[..., str]) -> None:
    tokenizer = make_tokenizer("bert", VOCABULARY, 2, "[UNK]", token_type_ids=True)
    ids = dict(zip("abcfg", tokenizer("abcfg", add_special_tokens=False)["input_ids"], strict=True))
    start, end = np.zeros(VOCABULARY, dtype=np.float32), np.zeros(VOCABULARY, dtype=np.float32)
    start[ids["a"]] = end[ids["b"]] = 9  # in the question: not an answer
    start[ids["f"]], end[ids["g"]] = 5, 5
    parts = {
        "outputs": ("start_logits", "end_logits"),
        "nodes": [helper.make_node("Gather", [name, "input_ids"], [f"{name}_logits"]) for name in ("start", "end")],
        "tables": {"start": start, "end": end},
    }
    directory = make("question-answering", parts)
    values, _ = run(directory, "--question", "abc", "--context", "efgh", "--context", "efghij")
    assert [value["answer"].replace(" ", "") for value in values] == ["fg", "fg"]
    assert values[0]["start"] == 6
    assert "--question" in fail(2, directory, "--text", "x")


def test_multiple_choice(make: Make, run: Callable[..., Any]) -> None:
    inputs: dict[str, list[Any]] = {name: ["batch_size", "num_choices", "sequence_length"] for name in TEXT}
    parts = per_sequence(np.arange(VOCABULARY, dtype=np.float32), axis=2)
    pairs = ("--text", "a", "--text", "a", "--text-pair", "b", "--text-pair", "z")
    values, lines = run(make("multiple-choice", parts, inputs), *pairs)
    assert values[0]["label"] == "choice 2"
    assert lines[0].startswith("choice 2 ")


def test_an_encoder_decoder_starts_from_its_start_token(make: Make, run: Callable[..., Any]) -> None:
    names = ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask")
    parts = per_token(EYE, source="decoder_input_ids")
    directory = make("text2text-generation", parts, tokens(*names), decoder_start_token_id=9)
    values, _ = run(directory, "--input-ids", "5,6,7")
    assert values["logits"]["shape"] == [1, 1, VOCABULARY]


def counting_decoder() -> dict[str, Any]:
    """Return the arguments of `graph_of` for a decoder that adds one to the last token id, and caches all token ids."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["logits"]),
        helper.make_node("Cast", ["input_ids"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["floats", "axes"], ["new"]),
        helper.make_node("Concat", ["past_key_values.0.key", "new"], ["present.0.key"], axis=2),
    ]
    tables = {"table": np.roll(EYE, 1, axis=1), "axes": np.array([1, 3])}
    return {"outputs": ("logits", "present.0.key"), "nodes": nodes, "tables": tables}


def test_generation_needs_no_torch(
    make: Make, run: Callable[..., Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache: dict[str, list[Any]] = {"past_key_values.0.key": ["batch_size", 1, "past_sequence_length", 1]}
    inputs = {**tokens("input_ids", "attention_mask", "position_ids"), **cache}
    directory = make("text-generation-with-past", counting_decoder(), inputs)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("torch", "transformers")]:
        monkeypatch.setitem(sys.modules, name, None)
    values, _ = run(directory, "--input-ids", "5,6,7", "--max-new-tokens", "4")
    assert values[0]["tokens"] == [8, 9, 10, 11]
    for settings in (("--temperature", "0.01", "--seed", "1"), ("--top-k", "1"), ("--top-p", "0.001"), ("--greedy",)):
        assert run(directory, "--input-ids", "5,6,7", "--max-new-tokens", "4", *settings)[0] == values
    values, lines = run(directory, "--prompt", "ab", "--prompt", "ab", "--max-new-tokens", "4")
    assert values[0] == values[1]
    assert lines == [values[0]["text"]] * 2
    assert main(["run", str(directory), "--prompt", "ab", "--max-new-tokens", "4", "--stream"]) == 0
    assert capsys.readouterr().out == f"{values[0]['text']}\n"


def test_missing_inputs(make: Make, fail: Callable[..., str]) -> None:
    directory = make("token-classification", per_token(EYE), {**tokens("input_ids"), "bbox": ["batch_size", 4]})
    assert "requires the inputs bbox" in fail(2, directory, "--input-ids", "1,2")
    assert "pass --text, --input-ids, --image or --audio: the graph's inputs are bbox" in fail(2, directory)
    assert "--text-pair doesn't apply to token-class" in fail(2, directory, "--text", "a", "--text-pair", "b")


def test_text_for_a_graph_without_token_ids(make: Make, fail: Callable[..., str]) -> None:
    parts = {
        "outputs": ("logits",),
        "nodes": [helper.make_node("Identity", ["pixel_values"], ["logits"])],
        "tables": {},
    }
    directory = make("image-classification", parts, {"pixel_values": [1, 3, 4, 4]})
    assert "has no text input, its inputs are pixel_values: pass --image" in fail(2, directory, "--text", "hi")


def test_without_torch(
    make: Make, run: Callable[..., Any], fail: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"0": "sad", "1": "glad", "2": "neither"}
    directory = make("text-classification", per_sequence(LOGITS), id2label=names)
    monkeypatch.setattr("onnxport.runtime.generators.find_spec", lambda name: None)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("torch", "transformers")]:
        monkeypatch.setitem(sys.modules, name, None)
    values, lines = run(directory, "--text", "ab", "--text", "abc")
    assert [result["top"][0][0]["label"] for result in values] == ["glad", "glad"]
    assert lines[1].startswith("glad 0.9")
    assert "pip install 'onnxport[export]'" in fail(1, directory, "--text", "a", "--text-pair", "b")
    assert "--image doesn't apply: the graphs for text-classification take --text" in fail(
        2, directory, "--image", "a.png"
    )


def test_damaged_settings(make: Make, fail: Callable[..., str]) -> None:
    directory = make("text-classification", per_sequence(LOGITS))
    for text in ("{", "[]"):
        (directory / "config.json").write_text(text)
        with pytest.raises(CorruptCheckpointError, match=r"config\.json"):
            _ = Directory(directory).config


def test_errors_of_directories_that_cannot_be_run(tmp_path: Path, fail: Callable[..., str]) -> None:
    with pytest.raises(CheckpointNotFoundError, match="no such directory"):
        Directory(tmp_path / "none")
    with pytest.raises(CheckpointNotFoundError, match=r"no onnxport\.json"):
        Directory(tmp_path)
    write_manifest(tmp_path, "x", tokens("input_ids"), ("a.onnx", "b.onnx"))
    with pytest.raises(CheckpointNotFoundError, match=r"lacks a\.onnx"):
        Directory(tmp_path)
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).touch()
    assert "has several graphs (a, b)" in fail(1, tmp_path, "--input-ids", "1")
    write_manifest(tmp_path, "x", tokens("input_ids"), ("model.onnx",))
    (tmp_path / "model.onnx").write_bytes(b"\x08")
    assert "isn't a readable ONNX file" in fail(1, tmp_path, "--input-ids", "1")
    (tmp_path / "onnxport.json").write_text("{")
    with pytest.raises(CorruptCheckpointError, match=rf"{tmp_path}: onnxport\.json: .* isn't valid JSON"):
        Directory(tmp_path)
