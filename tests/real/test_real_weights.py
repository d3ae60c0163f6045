"""Trained models are exported and validated, and return the expected results."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from filelock import FileLock
from tokenizers import Tokenizer
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

import onnxport
from onnxport import ExportOptions
from onnxport.cli import main
from onnxport.options import ValidationLevel
from scripts.fetch_real_models import model_directory


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Export each model once, for the first test that uses it; the workers of one run share the exports."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "real"
    root.mkdir(exist_ok=True)

    class Exports(dict[str, Path]):
        def __missing__(self, name: str) -> Path:
            self[name] = root / name
            with FileLock(root / f"{name}.lock"):
                if not self[name].is_dir():
                    validate: ValidationLevel = "quick" if name == "smollm2" else "full"  # the tests compare its tokens
                    onnxport.export(model_directory(name), self[name], ExportOptions(validate=validate))
            return self[name]

    return Exports()


def status(directory: Path) -> str:
    return json.loads((directory / "onnxport.json").read_text())["validation"]["status"]


def test_minilm_ranks_sentences(exported: dict[str, Path]) -> None:
    directory = exported["minilm"]
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(["A man is eating food.", "Someone is having a meal.", "Shares fell sharply."])
    mask = np.array([item.attention_mask for item in encoded])
    feed = {
        "input_ids": np.array([item.ids for item in encoded]),
        "attention_mask": mask,
        "token_type_ids": np.zeros_like(mask),
    }
    session = onnxruntime.InferenceSession(directory / "model.onnx")
    (vectors,) = session.run(["sentence_embedding"], feed)
    original = AutoModel.from_pretrained(model_directory("minilm")).eval()
    with torch.no_grad():
        states = original(**{name: torch.tensor(value) for name, value in feed.items()}).last_hidden_state.numpy()
    # The embeddings of sentence-transformers 6.0.1 for these sentences equal this within 2e-7 (compared manually).
    expected = np.stack([text[counts == 1].mean(axis=0) for text, counts in zip(states, mask, strict=True)])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert vectors[0] @ vectors[1] > 0.5 > 0.2 > vectors[0] @ vectors[2]
    assert status(directory) == "passed"


@pytest.mark.parametrize(
    ("name", "task"),
    [("rxnmapper", "fill-mask"), ("rxnfp", "text-classification"), ("microformer", "text-generation-with-past")],
)
def test_pickled_checkpoints(exported: dict[str, Path], name: str, task: str) -> None:
    manifest = onnxport.Manifest.from_json((exported[name] / "onnxport.json").read_text())
    assert manifest.task == task
    assert manifest.validation["status"] == "passed"


def test_other_clients_can_read_the_side_files(exported: dict[str, Path]) -> None:
    config = json.loads((exported["rxnfp"] / "config.json").read_text())
    assert len(config["id2label"]) == len(config["label2id"]) == config["num_labels"] == 50
    tokenizer = json.loads((exported["smollm2"] / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"  # Transformers 4 has no TokenizersBackend
    generation = json.loads((exported["smollm2"] / "generation_config.json").read_text())
    assert (generation["bos_token_id"], generation["eos_token_id"], generation["pad_token_id"]) == (1, 2, 2)


def test_tied_weights_are_written_once(exported: dict[str, Path]) -> None:
    weights = (model_directory("microformer") / "pytorch_model.bin").stat().st_size
    assert (exported["microformer"] / "model.onnx").stat().st_size < 1.1 * weights


def test_smollm2_knows_the_capital_of_france(exported: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    directory = exported["smollm2"]
    assert status(directory) == "passed"
    capsys.readouterr()
    prompt = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    assert main(["run", str(directory), "--text", prompt, "--max-new-tokens", "12"]) == 0
    assert "Paris" in capsys.readouterr().out


def test_smollm2_generates_pytorchs_tokens(exported: dict[str, Path]) -> None:
    file = next(model_directory("smollm2").glob("*.gguf"))
    original = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(exported["smollm2"], padding_side="left")
    settings = {"max_new_tokens": 32, "min_new_tokens": 32, "do_sample": False}
    ours = onnxport.load(exported["smollm2"])
    for texts in (["The capital of France is"], ["Once upon a time", "2 + 2 =", "The sky is blue, and"]):
        inputs = tokenizer(texts, return_tensors="pt", padding=True)
        assert torch.equal(ours.generate(**inputs, **settings), original.generate(**inputs, **settings))
