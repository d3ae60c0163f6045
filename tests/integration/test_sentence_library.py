"""Graphs compute what sentence-transformers 6.2.0 computes; `scripts/make_sentence_fixtures.py` saved its numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from safetensors.torch import save_file

import onnxport
from conformance.checkpoints import randomize
from tests.breadth import sampled

FIXTURES = Path(__file__).parent.parent / "fixtures" / "sentence_transformers"
TASKS = {"cross_encoder": "text-ranking", "cross_encoder_of_modules": "text-ranking", "logit_score": "text-ranking"}
Arrays = dict[str, np.ndarray]


def arrays_of(reference: Arrays, prefix: str) -> Arrays:
    return {name.removeprefix(prefix): array for name, array in reference.items() if name.startswith(prefix)}


def unflattened(inputs: Arrays) -> Arrays:
    """Return token ids as a padded batch with a mask: static embeddings have those of all texts in one row."""
    rows = np.split(inputs["input_ids"], inputs["offsets"][1:])
    length = max(map(len, rows))
    ids = np.stack([np.pad(row, (0, length - len(row))) for row in rows])
    return {"input_ids": ids, "attention_mask": np.stack([np.arange(length) < len(row) for row in rows]).astype(int)}


def feed(session: onnxruntime.InferenceSession, inputs: Arrays) -> Arrays:
    found = unflattened(inputs) if "offsets" in inputs else dict(inputs)
    ids = found["input_ids"]
    if "prompt_length" in found:
        found["prompt_length"] = np.full(len(ids), found["prompt_length"])
    found["token_type_ids"] = np.zeros_like(ids)
    return {value.name: found[value.name] for value in session.get_inputs()}


def run(session: onnxruntime.InferenceSession, inputs: Arrays) -> Arrays:
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feed(session, inputs)), strict=True))


ROUTERS = ("router", "router_of_models")
NAMES = sorted(path.name for path in FIXTURES.iterdir() if path.name not in ROUTERS)
WIDE = {
    "cross_encoder_of_modules",
    "layer_pooling",
    "logit_score",
    "mlm_transformer",
    "lstm",
    "pooling_without_prompt",
    "pylate",
    "sparse_auto_encoder",
    "word_weights",
}
"""Directories with one more module than others, that few users have; `make conformance` exports them."""


@pytest.mark.parametrize("name", sampled(NAMES, set(NAMES) - WIDE))
def test_the_graph_computes_what_the_library_computes(name: str, tmp_path: Path) -> None:
    result = onnxport.export(FIXTURES / name, tmp_path / "out")
    assert result.manifest.task == TASKS.get(name, "sentence-similarity")
    assert result.manifest.validation["status"] == "passed"
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    reference = dict(np.load(FIXTURES / name / "reference.npz"))
    compared = set()
    for source, target, mask in (("input.", "output.", "document_mask"), ("query_input.", "query.", "query_mask")):
        inputs = arrays_of(reference, source)
        found = run(session, inputs) if inputs else {}
        for output, expected in arrays_of(reference, target).items():
            graph_output = mask if output == "attention_mask" else output
            if graph_output in found:
                compared.add(graph_output)
                np.testing.assert_allclose(found[graph_output], expected, rtol=1e-5, atol=1e-5, err_msg=graph_output)
    assert compared & {"sentence_embedding", "scores", "document_mask"}


@pytest.mark.wide
def test_the_hidden_states_of_more_layers_than_are_traced(tmp_path: Path) -> None:
    root = shutil.copytree(FIXTURES / "layer_pooling", tmp_path / "deep")
    config = transformers.BertConfig.from_pretrained(root, num_hidden_layers=5)
    model = transformers.BertModel(config).eval()
    randomize(model)
    model.save_pretrained(root)
    weights = torch.tensor([1.0, 0.5, 3.0, 2.0])
    save_file({"layer_weights": weights}, root / "1_WeightedLayerPooling" / "model.safetensors")
    settings = {"embedding_dimension": 8, "layer_start": 2, "num_hidden_layers": 5}
    (root / "1_WeightedLayerPooling" / "config.json").write_text(json.dumps(settings))
    result = onnxport.export(root, tmp_path / "out", onnxport.ExportOptions(validate="quick"))
    assert "traced at full depth" in result.manifest.components[0].notes[0]
    ids = np.array([[5, 6, 7], [8, 9, 10]])
    with torch.no_grad():
        layers = torch.stack(model(torch.tensor(ids)).hidden_states[2:])
    expected = ((weights[:, None, None, None] * layers).sum(dim=0) / weights.sum()).numpy()
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    found = run(session, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    np.testing.assert_allclose(found["token_embeddings"], expected, atol=1e-5)


def test_a_directory_without_a_tokenizer_is_exported(tmp_path: Path) -> None:
    """The words of `WordEmbeddings` are in a file of its own tokenizer, which is copied."""
    onnxport.export(FIXTURES / "word_embeddings", tmp_path / "out", onnxport.ExportOptions(validate="none"))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"whitespacetokenizer_config.json", "wordembedding_config.json", "config.json"} <= names
    loaded = onnxport.load(tmp_path / "out")
    assert loaded(input_ids=np.array([[1, 2]]))["sentence_embedding"].shape == (1, 16)


def test_the_tokenizer_of_static_embeddings_adds_no_special_tokens(tmp_path: Path) -> None:
    for name in ("static_embedding", "model2vec"):
        onnxport.export(FIXTURES / name, tmp_path / name, onnxport.ExportOptions(validate="none"))
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / name)
        assert tokenizer("a b")["input_ids"] == [5, 6]


def test_a_cross_encoder_has_the_labels_of_its_model(tmp_path: Path) -> None:
    onnxport.export(FIXTURES / "cross_encoder", tmp_path / "out", onnxport.ExportOptions(validate="none"))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["id2label"] == {"0": "LABEL_0"}


@pytest.mark.parametrize("name", sampled(ROUTERS, ("router",)))
def test_each_route_of_a_router(name: str, tmp_path: Path) -> None:
    reference = dict(np.load(FIXTURES / name / "reference.npz"))
    for route, source, target in (("document", "input.", "output."), ("query", "query_input.", "query.")):
        output = tmp_path / route
        result = onnxport.export(FIXTURES / name, output, onnxport.ExportOptions(route=route))
        assert result.manifest.validation["status"] == "passed"
        session = onnxruntime.InferenceSession(output / "model.onnx", providers=["CPUExecutionProvider"])
        found = run(session, arrays_of(reference, source))["sentence_embedding"]
        np.testing.assert_allclose(found, reference[f"{target}sentence_embedding"], rtol=1e-5, atol=1e-5)
        listed = json.loads((output / "modules.json").read_text())
        assert listed[0]["path"] == "" and not any("Router" in module["type"] for module in listed)
        assert onnxport.validate(output).status == "passed"
