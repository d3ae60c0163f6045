"""Graphs compute what sentence-transformers 6.2.0 computes; `scripts/make_sentence_fixtures.py` saved its numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import onnxport

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


@pytest.mark.parametrize("name", sorted(path.name for path in FIXTURES.iterdir()))
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
