"""sentence-transformers directories are exported with pooling, Dense and normalization in the graph.

sentence-transformers isn't a dependency of the tests: the expected embeddings are computed here, with NumPy, from
Transformers' hidden states.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from safetensors.torch import save_file

import onnxport
from conformance.checkpoints import make_checkpoint, randomize
from conformance.preprocessors import make_tokenizer
from onnxport.architectures.classes import infer_task
from onnxport.cli import main
from onnxport.errors import OnnxportError, UnsupportedError, WeightsMismatchError
from onnxport.options import ExportOptions

MODES = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
IDS = np.array([[4, 5, 6, 7, 8], [9, 10, 11, 0, 0], [0, 0, 0, 12, 13]])
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 0, 1, 1]])


def pool(states: np.ndarray, mask: np.ndarray, mode: str) -> np.ndarray:
    """Pool hidden states to one embedding for each sequence, without padding tokens."""
    rows = []
    for text, counts in zip(states, mask, strict=True):
        tokens, places = text[counts == 1], np.flatnonzero(counts) - np.flatnonzero(counts)[0] + 1
        rows.append(
            {
                "cls": lambda tokens=tokens: tokens[0],
                "max": lambda tokens=tokens: tokens.max(axis=0),
                "mean": lambda tokens=tokens: tokens.mean(axis=0),
                "mean_sqrt_len_tokens": lambda tokens=tokens: tokens.sum(axis=0) / np.sqrt(len(tokens)),
                "weightedmean": lambda tokens=tokens, places=places: np.average(tokens, axis=0, weights=places),
                "lasttoken": lambda tokens=tokens: tokens[-1],
            }[mode]()
        )
    return np.stack(rows)


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def add_modules(root: Path, modules: dict[str, dict[str, Any]], trunk: str = "") -> None:
    module_types = {trunk: "Transformer"} | {name: name.partition("_")[2] for name in modules}
    listed = [
        {"path": path, "type": f"sentence_transformers.models.{module_type}"}
        for path, module_type in module_types.items()
    ]
    write(root / "modules.json", listed)
    for name, settings in modules.items():
        write(root / name / "config.json", settings)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("bert", "default", tmp_path_factory.mktemp("base"))


@pytest.fixture
def root(bert: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bert, tmp_path / "checkpoint"))


def hidden_states_of(directory: Path, auto_class: Any = transformers.AutoModel) -> np.ndarray:
    model = auto_class.from_pretrained(directory).eval()
    with torch.no_grad():
        inputs = {"input_ids": torch.tensor(IDS), "attention_mask": torch.tensor(MASK)}
        return np.asarray(model(**inputs).last_hidden_state)


def run(directory: Path) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(directory / "model.onnx")
    feed = {"input_ids": IDS, "attention_mask": MASK, "token_type_ids": np.zeros_like(IDS)}
    names = {value.name for value in session.get_inputs()}
    assert [value.name for value in session.get_outputs()] == ["last_hidden_state", "sentence_embedding"]
    return session.run(None, {name: value for name, value in feed.items() if name in names})


def test_all_pooling_modes(root: Path, tmp_path: Path) -> None:
    add_modules(root, {"1_Pooling": {"pooling_mode": MODES}})
    result = onnxport.export(root, tmp_path / "out")
    assert (result.manifest.task, result.manifest.validation["status"]) == ("sentence-similarity", "passed")
    (component,) = result.manifest.components
    axes = {value.name: list(value.axes) for value in component.outputs}
    assert axes == {
        "last_hidden_state": ["batch_size", "sequence_length", 32],
        "sentence_embedding": ["batch_size", 32 * len(MODES)],
    }
    states, found = hidden_states_of(root), run(tmp_path / "out")
    np.testing.assert_allclose(found[0], states, atol=1e-5)
    for mode, part in zip(MODES, np.split(found[1], len(MODES), axis=1), strict=True):
        np.testing.assert_allclose(part, pool(states, MASK, mode), atol=1e-5, err_msg=mode)


def dense_directory(root: Path, trunk: str = "") -> dict[str, torch.Tensor]:
    """Write the modules of a directory with two Dense modules, and return their weights."""
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name: torch.randn(shape, generator=generator) for name, shape in (("w", (8, 32)), ("b", (8,)), ("v", (8, 8)))
    }
    tanh, none = "torch.nn.modules.activation.Tanh", "torch.nn.modules.linear.Identity"
    first = {"in_features": 32, "out_features": 8, "bias": True, "activation_function": tanh}
    second = {"in_features": 8, "out_features": 8, "bias": False, "activation_function": none, "use_residual": True}
    modules = {"1_Pooling": {"pooling_mode_mean_tokens": True}, "2_Dense": first, "3_Dense": second, "4_Normalize": {}}
    add_modules(root, modules, trunk)
    save_file({"linear.weight": tensors["w"], "linear.bias": tensors["b"]}, root / "2_Dense" / "model.safetensors")
    torch.save({"linear.weight": tensors["v"]}, root / "3_Dense" / "pytorch_model.bin")
    return tensors


def expected(states: np.ndarray, tensors: dict[str, torch.Tensor]) -> np.ndarray:
    w, b, v = (tensors[name].numpy() for name in "wbv")
    first = np.tanh(pool(states, MASK, "mean") @ w.T + b)
    second = first + first @ v.T
    return second / np.linalg.norm(second, axis=1, keepdims=True)


def safe(root: Path) -> None:
    """Save the second Dense in the format of the first, so that no tensor must be loaded eagerly."""
    save_file(torch.load(root / "3_Dense" / "pytorch_model.bin"), root / "3_Dense" / "model.safetensors")


@pytest.mark.parametrize("weights_format", ["pickled", "safetensors", "linked"])
def test_dense_and_normalization(root: Path, tmp_path: Path, weights_format: str) -> None:
    tensors = dense_directory(root)
    if weights_format != "pickled":
        safe(root)
    result = onnxport.export(
        root, tmp_path / "out", ExportOptions(weights="link" if weights_format == "linked" else "copy")
    )
    assert result.manifest.validation["status"] == "passed"
    np.testing.assert_allclose(run(tmp_path / "out")[1], expected(hidden_states_of(root), tensors), atol=1e-5)
    assert (tmp_path / "out" / "2_Dense" / "model.safetensors").read_bytes() == (
        root / "2_Dense" / "model.safetensors"
    ).read_bytes()
    again = main(["validate", str(tmp_path / "out"), "--quiet"])
    assert again == 0


def test_a_fine_tune_with_a_cached_graph_has_its_own_dense(root: Path, tmp_path: Path) -> None:
    dense_directory(root)
    safe(root)
    onnxport.export(root, tmp_path / "first")
    tensors = dense_directory(root)
    tensors["w"] = tensors["w"] * 0.5
    save_file({"linear.weight": tensors["w"], "linear.bias": tensors["b"]}, root / "2_Dense" / "model.safetensors")
    onnxport.export(root, tmp_path / "second")
    np.testing.assert_allclose(run(tmp_path / "second")[1], expected(hidden_states_of(root), tensors), atol=1e-5)


def test_the_old_layout(bert: Path, tmp_path: Path) -> None:
    root = tmp_path / "old"
    shutil.copytree(bert, root / "0_Transformer")
    tensors = dense_directory(root, "0_Transformer")
    safe(root)
    write(root / "0_Transformer" / "sentence_bert_config.json", {"max_seq_length": 16})
    onnxport.export(root, tmp_path / "out")
    np.testing.assert_allclose(
        run(tmp_path / "out")[1], expected(hidden_states_of(root / "0_Transformer"), tensors), atol=1e-5
    )
    manifest = json.loads((tmp_path / "out" / "onnxport.json").read_text())
    digested = ["0_Transformer/model.safetensors", "2_Dense/model.safetensors", "3_Dense/model.safetensors"]
    assert sorted(manifest["source"]["weights_sha256"]) == digested
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {"config.json", "sentence_bert_config.json", "2_Dense/config.json", "4_Normalize/config.json"} <= files
    listed = json.loads((tmp_path / "out" / "modules.json").read_text())
    assert [module["path"] for module in listed] == ["", "1_Pooling", "2_Dense", "3_Dense", "4_Normalize"]


def test_another_task_exports_the_model_without_modules(root: Path, tmp_path: Path) -> None:
    dense_directory(root)
    result = onnxport.export(root, tmp_path / "out", ExportOptions(task="feature-extraction"))
    assert result.manifest.task == "feature-extraction"
    assert [value.name for value in result.manifest.components[0].outputs] == ["last_hidden_state"]
    assert (tmp_path / "out" / "modules.json").is_file()


def test_a_dry_run_lists_the_written_files(root: Path, tmp_path: Path) -> None:
    dense_directory(root)
    planned = onnxport.export(root, tmp_path / "none", ExportOptions(dry_run=True)).plan
    written = onnxport.export(root, tmp_path / "out").plan
    assert {file.name for file in planned} == {file.name for file in written}


def test_dense_of_another_size(root: Path, tmp_path: Path) -> None:
    dense_directory(root)
    save_file(
        {"linear.weight": torch.zeros(8, 5), "linear.bias": torch.zeros(8)}, root / "2_Dense" / "model.safetensors"
    )
    with pytest.raises(WeightsMismatchError, match=r"sentence_head\.module_1\.linear\.weight"):
        onnxport.export(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_past_is_refused(root: Path, tmp_path: Path) -> None:
    add_modules(root, {"1_Pooling": {}})
    with pytest.raises(OnnxportError, match="has no past"):
        onnxport.export(root, tmp_path / "out", ExportOptions(task="sentence-similarity-with-past"))


def test_a_model_without_last_hidden_state(tmp_path: Path) -> None:
    root = make_checkpoint("vit", "default", tmp_path)
    add_modules(root, {"1_Pooling": {}})
    with pytest.raises(UnsupportedError, match="need input_ids and last_hidden_state"):
        onnxport.export(root, tmp_path / "out")


@pytest.mark.wide
def test_the_encoder_of_t5(tmp_path: Path) -> None:
    root = tmp_path / "t5"
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 20, "num_layers": 4, "num_heads": 4, "vocab_size": 64}
    model = transformers.T5EncoderModel(transformers.T5Config(**sizes, pad_token_id=0))
    randomize(model)
    model.save_pretrained(root)
    make_tokenizer("bert", 64, 2, "[UNK]", token_type_ids=False).save_pretrained(root)
    add_modules(root, {"1_Pooling": {"pooling_mode": "mean"}})
    result = onnxport.export(root, tmp_path / "out")
    assert result.manifest.source["architecture"] == "T5EncoderModel"
    states = hidden_states_of(root, transformers.T5EncoderModel)
    np.testing.assert_allclose(run(tmp_path / "out")[1], pool(states, MASK, "mean"), atol=1e-5)


def test_the_task_requires_modules() -> None:
    config = transformers.T5Config(architectures=["T5EncoderModel"])
    assert infer_task(config).name == "text-encoding"


def test_a_decoder_with_the_last_token(tmp_path: Path) -> None:
    root = tmp_path / "qwen"
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "head_dim": 8,
    }
    config = transformers.Qwen3Config(**sizes, num_key_value_heads=2, vocab_size=64, pad_token_id=0)
    model = transformers.Qwen3ForCausalLM(config)
    randomize(model)
    model.save_pretrained(root)
    make_tokenizer("bert", 64, 2, "[UNK]", token_type_ids=False).save_pretrained(root)
    add_modules(root, {"1_Pooling": {"pooling_mode": "lasttoken"}, "2_Normalize": {}})
    onnxport.export(root, tmp_path / "out")
    last = pool(hidden_states_of(root), MASK, "lasttoken")
    expected = last / np.linalg.norm(last, axis=1, keepdims=True)
    np.testing.assert_allclose(run(tmp_path / "out")[1], expected, atol=1e-5)


def test_run_prints_similarities(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_modules(root, {"1_Pooling": {"pooling_mode": "mean"}, "2_Normalize": {}})
    assert main(["export", str(root), str(tmp_path / "out"), "--quiet"]) == 0
    assert main(["run", str(tmp_path / "out"), "--text", "ab cd", "--text", "ab cd", "--text", "ef", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["similarities"][0][1] == 1
    assert found["similarities"][0][2] < 1
    assert found["shape"] == [3, 32]
    model = onnxport.load(tmp_path / "out")
    found = model(input_ids=IDS, attention_mask=MASK)["sentence_embedding"]
    expected = pool(hidden_states_of(root), MASK, "mean")
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)
