"""Settings of sentence-transformers directories of old and new releases are read, or there is an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from onnxport.checkpoint.checkpoint import Checkpoint, open_checkpoint
from onnxport.description.sentence_embedding import Dense, Normalize, Pooling
from onnxport.errors import CheckpointNotFoundError, CorruptCheckpointError, UnsupportedError
from onnxport.options import ExportOptions
from tests.unit.test_checkpoint import write_safetensors

OLD = "sentence_transformers.models."
NEW = {
    "Transformer": "sentence_transformers.base.modules.transformer.",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.",
    "Dense": "sentence_transformers.base.modules.dense.",
    "Normalize": "sentence_transformers.base.modules.normalize.",
}
DENSE = {"in_features": 4, "out_features": 3, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def make(root: Path, modules: list[tuple[str, Any]], trunk: str = "") -> Path:
    """Write a model, and modules by class and settings; each Dense has its weights."""
    write(root / trunk / "config.json", {"model_type": "bert", "architectures": ["BertModel"]})
    write_safetensors(root / trunk / "model.safetensors", {"a": [2]})
    listed = [{"idx": 0, "name": "0", "path": trunk, "type": f"{OLD}Transformer"}]
    for index, (kind, settings) in enumerate(modules, 1):
        name = kind.rpartition(".")[2]
        listed.append({"idx": index, "name": str(index), "path": f"{index}_{name}", "type": kind})
        if settings is not None:
            write(root / f"{index}_{name}" / "config.json", settings)
        if name == "Dense":
            write_safetensors(root / f"{index}_{name}" / "model.safetensors", {"linear.weight": [3, 4]})
    write(root / "modules.json", listed)
    return root


def opened(root: Path, **options: Any) -> Checkpoint:
    return open_checkpoint(root, ExportOptions(**options))


@pytest.mark.parametrize(
    ("settings", "modes"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, ("mean",)),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, ("cls", "mean")),
        ({"pooling_mode_lasttoken": True}, ("lasttoken",)),
        ({"pooling_mode_weightedmean_tokens": True, "pooling_mode_max_tokens": True}, ("max", "weightedmean")),
        ({"word_embedding_dimension": 4}, ("mean",)),
        ({"pooling_mode": "mean_sqrt_len_tokens", "embedding_dimension": 4}, ("mean_sqrt_len_tokens",)),
        ({"pooling_mode": ["mean", "cls"], "include_prompt": True}, ("mean", "cls")),
    ],
)
def test_pooling_settings_of_old_and_new_releases(
    tmp_path: Path, settings: dict[str, Any], modes: tuple[str, ...]
) -> None:
    found = opened(make(tmp_path, [(f"{OLD}Pooling", settings), (f"{OLD}Normalize", None)])).sentence
    assert found is not None
    assert found.modules == (Pooling(modes), Normalize())
    assert not found.weights


def test_module_names_of_new_releases_and_the_weights_of_dense(tmp_path: Path) -> None:
    dense = {**DENSE, "module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
    modules = [("Pooling", {"pooling_mode": "mean"}), ("Dense", dense), ("Normalize", {})]
    root = make(tmp_path, [(f"{NEW[kind]}{kind}", settings) for kind, settings in modules])
    checkpoint = opened(root)
    assert checkpoint.sentence is not None
    assert checkpoint.sentence.modules[1] == Dense(4, 3, True, "Tanh", False)
    assert checkpoint.module_weights == {"sentence_head.module_1.": root / "2_Dense" / "model.safetensors"}
    assert checkpoint.in_parts
    assert {str(path.relative_to(root)) for path in checkpoint.more_files} == {
        *("modules.json", "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"),
        "3_Normalize/config.json",
    }


def test_the_model_may_be_in_a_subdirectory(tmp_path: Path) -> None:
    root = make(tmp_path, [(f"{OLD}Pooling", {}), (f"{OLD}Dense", DENSE)], trunk="0_Transformer")
    write(root / "0_Transformer" / "sentence_bert_config.json", {"max_seq_length": 128})
    checkpoint = opened(root)
    assert (checkpoint.root, checkpoint.directory) == (root, root / "0_Transformer")
    assert checkpoint.sentence is not None
    assert root / "0_Transformer" / "sentence_bert_config.json" in checkpoint.more_files


def test_another_task_ignores_the_modules(tmp_path: Path) -> None:
    root = make(tmp_path, [(f"{OLD}Pooling", {"pooling_mode": "unheard of"})])
    assert opened(root, task="feature-extraction").sentence is None
    assert opened(root, split_encoders=True).sentence is None


def test_a_cross_encoder_has_no_embeddings(tmp_path: Path) -> None:
    root = make(tmp_path, [(f"{OLD}Pooling", {})])
    write(root / "config_sentence_transformers.json", {"model_type": "CrossEncoder"})
    assert opened(root).sentence is None


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([(f"{OLD}Pooling", {}), (f"{OLD}WeightedLayerPooling", {})], "lists WeightedLayerPooling, but only"),
        ([("mine.Pooling", {})], r"lists mine\.Pooling, but only"),
        ([(f"{OLD}Normalize", {}), (f"{OLD}Pooling", {})], "the second must be the only Pooling"),
        ([(f"{OLD}Normalize", {})], "the second must be the only Pooling"),
        ([(f"{OLD}Pooling", {"pooling_mode": "median"})], "unknown pooling mode 'median'"),
        ([(f"{OLD}Pooling", {"include_prompt": False})], "include_prompt is false"),
        ([(f"{OLD}Pooling", {}), (f"{OLD}Dense", {**DENSE, "activation_function": "os.system"})], "'os.system'"),
        (
            [(f"{OLD}Pooling", {}), (f"{OLD}Dense", {**DENSE, "module_input_name": "token_embeddings"})],
            "only 'sentence_",
        ),
    ],
)
def test_unknown_modules_are_named(tmp_path: Path, modules: list[tuple[str, Any]], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        opened(make(tmp_path, modules))


def test_the_task_requires_modules(tmp_path: Path) -> None:
    make(tmp_path, [(f"{OLD}Pooling", {})])
    (tmp_path / "modules.json").unlink()
    with pytest.raises(UnsupportedError, match=r"has no modules\.json.*--task feature-extraction"):
        opened(tmp_path, task="sentence-similarity")
    assert opened(tmp_path).sentence is None


def test_a_model_with_another_task(tmp_path: Path) -> None:
    make(tmp_path, [(f"{OLD}Pooling", {})])
    write(tmp_path / "sentence_bert_config.json", {"transformer_task": "fill-mask"})
    with pytest.raises(UnsupportedError, match="transformer_task is 'fill-mask'"):
        opened(tmp_path)


@pytest.mark.parametrize(
    "listed", [{}, [], [{"type": 1, "path": ""}], [{"path": ""}], ["x"], [{"type": "a", "path": "../x"}]]
)
def test_a_damaged_list(tmp_path: Path, listed: Any) -> None:
    make(tmp_path, [(f"{OLD}Pooling", {})])
    write(tmp_path / "modules.json", listed)
    with pytest.raises(CorruptCheckpointError, match=r"modules\.json"):
        opened(tmp_path)


def test_dense_with_weights_of_other_formats(tmp_path: Path) -> None:
    make(tmp_path, [(f"{OLD}Pooling", {}), (f"{OLD}Dense", DENSE)])
    (tmp_path / "tf_model.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(UnsupportedError, match="its weights are tensorflow"):
        opened(tmp_path, framework="tf")


def test_missing_files_of_modules(tmp_path: Path) -> None:
    make(tmp_path, [(f"{OLD}Pooling", {}), (f"{OLD}Dense", DENSE)])
    (tmp_path / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(CheckpointNotFoundError, match=r"neither model\.safetensors nor"):
        opened(tmp_path)
    (tmp_path / "1_Pooling" / "config.json").unlink()
    with pytest.raises(CheckpointNotFoundError, match="1_Pooling"):
        opened(tmp_path)
