"""Settings of sentence-transformers directories of old and new releases are read, or there is an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from onnxport.checkpoint.checkpoint import Checkpoint, open_checkpoint
from onnxport.description.sentence_modules import (
    Activation,
    Dense,
    Expansion,
    LayerPooling,
    Normalize,
    Pooling,
    ScoringMask,
)
from onnxport.errors import CheckpointNotFoundError, CorruptCheckpointError, OptionError, UnsupportedError
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
        ({"pooling_mode": ["mean"], "include_prompt": None}, ("mean",)),
    ],
)
def test_pooling_settings_of_old_and_new_releases(
    tmp_path: Path, settings: dict[str, Any], modes: tuple[str, ...]
) -> None:
    found = opened(make(tmp_path, [(f"{OLD}Pooling", settings), (f"{OLD}Normalize", None)])).sentence
    assert found is not None
    assert found.model.modules == (Pooling(modes), Normalize())
    assert not found.model.takes_prompt_length
    assert not found.weights


def test_module_names_of_new_releases_and_the_weights_of_dense(tmp_path: Path) -> None:
    dense = {**DENSE, "module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
    modules = [("Pooling", {"pooling_mode": "mean"}), ("Dense", dense), ("Normalize", {})]
    root = make(tmp_path, [(f"{NEW[kind]}{kind}", settings) for kind, settings in modules])
    checkpoint = opened(root)
    assert checkpoint.sentence is not None
    assert checkpoint.sentence.model.modules[1] == Dense(
        in_features=4, out_features=3, bias=True, activation="Tanh", residual=False
    )
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


def cross_encoder(root: Path, modules: list[tuple[str, Any]], **settings: Any) -> Path:
    make(root, modules)
    write(root / "config_sentence_transformers.json", {"model_type": "CrossEncoder", **settings})
    write(root / "sentence_bert_config.json", {} if modules else {"transformer_task": "sequence-classification"})
    return root


SCORES = {**DENSE, "out_features": 1, "module_output_name": "scores"}


@pytest.mark.parametrize(
    ("modules", "settings", "activation"),
    [
        ([], {"activation_fn": "torch.nn.modules.linear.Identity"}, "Identity"),
        ([], {}, "Identity"),
        ([(f"{OLD}Pooling", {}), (f"{OLD}Dense", SCORES)], {}, "Sigmoid"),
        ([(f"{OLD}Pooling", {}), (f"{OLD}Dense", SCORES)], {"activation_fn": "torch.nn.Tanh"}, "Tanh"),
    ],
)
def test_a_cross_encoder_returns_scores(
    tmp_path: Path, modules: list[tuple[str, Any]], settings: dict[str, Any], activation: str
) -> None:
    found = opened(cross_encoder(tmp_path, modules, **settings)).sentence
    assert found is not None
    assert (found.task, found.model.results[-1]) == ("text-ranking", "scores")
    assert found.model.modules[-1] == Activation("scores", "scores", name=activation)
    with pytest.raises(
        UnsupportedError, match="model_type is CrossEncoder, which is exported with --task text-ranking"
    ):
        opened(tmp_path, task="sentence-similarity")
    assert opened(tmp_path, task="text-classification").sentence is None


def test_activations_of_older_cross_encoders(tmp_path: Path) -> None:
    root = cross_encoder(tmp_path, [])
    config = {"model_type": "bert", "id2label": {"0": "a"}}
    for added, activation in (
        ({}, "Sigmoid"),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, "Identity"),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.ReLU"}}, "ReLU"),
    ):
        write(root / "config.json", config | added)
        found = opened(root).sentence
        assert found is not None and found.model.modules == (Activation("scores", "scores", name=activation),)


def tokenizer(root: Path) -> None:
    from tokenizers import Tokenizer, models

    words = {"[UNK]": 0, "[MASK]": 1, "a": 2, ".": 3, ",": 4}
    Tokenizer(models.WordLevel(words, unk_token="[UNK]")).save(str(root / "tokenizer.json"))
    write(root / "tokenizer_config.json", {"unk_token": "[UNK]", "mask_token": {"content": "[MASK]"}})


def multi_vector(root: Path, mask: dict[str, Any], **transformer: Any) -> ScoringMask:
    """Return the mask of a late-interaction model."""
    make(root, [("sentence_transformers.multi_vector_encoder.modules.MultiVectorMask", mask)])
    write(root / "config_sentence_transformers.json", {"model_type": "MultiVectorEncoder"})
    write(root / "sentence_bert_config.json", transformer)
    tokenizer(root)
    found = opened(root).sentence
    assert found is not None and found.model.result == "token_embeddings"
    (module,) = found.model.modules
    assert isinstance(module, ScoringMask)
    return module


def test_the_masks_of_late_interaction(tmp_path: Path) -> None:
    assert multi_vector(tmp_path, {}) == ScoringMask((), (), (), None)
    words = [",", "absent", "[UNK]", "."]
    assert multi_vector(tmp_path, {"skiplist_words": words}) == ScoringMask((), (3, 4), (), None)
    both = {"skiplist_words": ["."], "skiplist_tasks": ["query", "document"], "keep_only_token_ids": [2]}
    expansion = {"strategy": "fixed", "length": 7}
    expected = ScoringMask((3,), (3,), (2,), Expansion(1, 7))
    assert multi_vector(tmp_path, both, query_expansion=expansion) == expected
    with pytest.raises(CorruptCheckpointError, match="extended with 'b', which isn't in tokenizer"):
        multi_vector(tmp_path, {}, query_expansion={**expansion, "token": "b"})
    with pytest.raises(CorruptCheckpointError, match="which has no length"):
        multi_vector(tmp_path, {}, query_expansion={"strategy": "fixed"})
    with pytest.raises(CorruptCheckpointError, match="skiplist_words is 3"):
        multi_vector(tmp_path, {"skiplist_words": 3})


def test_pylate_masks_punctuation_without_a_module(tmp_path: Path) -> None:
    make(tmp_path, [("pylate.models.Dense.Dense", DENSE)])
    tokenizer(tmp_path)
    for settings, skipped, expansion in (
        ({}, (3, 4), None),
        ({"query_prefix": "[Q] "}, (3, 4), Expansion(1, 32)),
        ({"skiplist_words": ["."], "query_length": 9}, (3,), Expansion(1, 9)),
        ({"skiplist_words": [], "do_query_expansion": False}, (), None),
    ):
        write(tmp_path / "config_sentence_transformers.json", {"model_type": "ColBERT", **settings})
        found = opened(tmp_path).sentence
        assert found is not None
        dense, mask, normalize = found.model.modules
        assert isinstance(dense, Dense) and (dense.source, dense.target) == ("token_embeddings", "token_embeddings")
        assert (mask, normalize) == (ScoringMask((), skipped, (), expansion), Normalize(*["token_embeddings"] * 2))


SPARSE = "sentence_transformers.sparse_encoder.modules."


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([(f"{OLD}Pooling", {}), (f"{OLD}BoW", {})], "lists BoW, which isn't supported: it counts words"),
        ([("mine.Pooling", {})], r"lists mine\.Pooling, which isn't supported\. Supported are a Transformer"),
        ([(f"{OLD}Pooling", {"pooling_mode": "median"})], "unknown pooling mode 'median'"),
        ([(f"{OLD}Pooling", {}), (f"{OLD}Dense", {**DENSE, "activation_function": "os.system"})], "'os.system'"),
        ([(f"{SPARSE}SpladePooling", {"pooling_strategy": "mean"})], "pooling_strategy is 'mean'"),
    ],
)
def test_unknown_modules_are_named(tmp_path: Path, modules: list[tuple[str, Any]], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        opened(make(tmp_path, modules))


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (
            [(f"{OLD}Normalize", {}), (f"{OLD}Pooling", {})],
            "Normalize reads sentence_embedding, which no module before",
        ),
        ([(f"{OLD}WordWeights", {"vocab": ["a"], "word_weights": {}})], "none of them writes sentence_embedding"),
        ([(f"{OLD}Pooling", {}), (f"{OLD}Dense", {**DENSE, "module_input_name": "x"})], "Dense reads x"),
        ([(f"{OLD}Pooling", {}), (f"{OLD}Dense", {**DENSE, "in_features": 0})], r"are \[0, 3\], not positive"),
        ([(f"{OLD}WordWeights", {"vocab": ["a"], "word_weights": {"a": "b"}})], "vocab must have words"),
        ([(f"{OLD}LogitScore", {"false_token_id": 3})], "true_token_id is None"),
    ],
)
def test_modules_that_do_not_fit(tmp_path: Path, modules: list[tuple[str, Any]], message: str) -> None:
    with pytest.raises(CorruptCheckpointError, match=message):
        opened(make(tmp_path, modules))


def test_a_route_is_chosen(tmp_path: Path) -> None:
    make(tmp_path, [(f"{OLD}Pooling", {}), (f"{OLD}Router", None)])
    folder = tmp_path / "2_Router"
    types = {f"{route}_0_Normalize": f"{OLD}Normalize" for route in ("query", "document")}
    routes = {"query": ["query_0_Normalize"], "document": ["document_0_Normalize", "query_0_Normalize"]}
    write(folder / "router_config.json", {"types": types, "structure": routes, "parameters": {}})
    for name in types:
        write(folder / name / "config.json", {})
    with pytest.raises(
        UnsupportedError, match=r"lists Router, .*choose one of its routes with --route: query, document"
    ):
        opened(tmp_path)
    with pytest.raises(OptionError, match=r"--route image: the routes of .* are query, document"):
        opened(tmp_path, route="image")
    for route, count in (("query", 1), ("document", 2)):
        found = opened(tmp_path, route=route).sentence
        assert found is not None and found.model.modules == (Pooling(("mean",)), *[Normalize()] * count)
    write(folder / "router_config.json", {"types": types, "structure": {"query": ["query_0_Normalize"]}})
    assert opened(tmp_path).sentence is not None  # the only route
    for structure in ({"query": ["other"]}, {"query": "other"}, {}, [], {"query": []}):
        write(folder / "router_config.json", {"types": types, "structure": structure})
        with pytest.raises(CorruptCheckpointError, match=r"router_config\.json"):
            opened(tmp_path)
    write(folder / "router_config.json", {"types": {"../x": f"{OLD}Dense"}, "structure": {"query": ["../x"]}})
    with pytest.raises(CorruptCheckpointError, match="outside of its directory"):
        opened(tmp_path)


def test_a_route_needs_a_router(tmp_path: Path) -> None:
    make(tmp_path, [(f"{OLD}Pooling", {})])
    with pytest.raises(OptionError, match=r"--route query: .*modules\.json lists no Router"):
        opened(tmp_path, route="query")


def test_the_weighted_layers_are_those_of_the_model(tmp_path: Path) -> None:
    make(tmp_path, [(f"{OLD}WeightedLayerPooling", {"num_hidden_layers": 3, "layer_start": 1}), (f"{OLD}Pooling", {})])
    write_safetensors(tmp_path / "1_WeightedLayerPooling" / "model.safetensors", {"layer_weights": [3]})
    write(tmp_path / "config.json", {"model_type": "bert", "num_hidden_layers": 3})
    found = opened(tmp_path).sentence
    assert found is not None and found.model.modules[0] == LayerPooling(1, 3)
    write(tmp_path / "config.json", {"model_type": "bert", "num_hidden_layers": 4})
    with pytest.raises(CorruptCheckpointError, match="num_hidden_layers is 3, and 4 in"):
        opened(tmp_path)


def test_convolutions_keep_the_number_of_tokens(tmp_path: Path) -> None:
    make(tmp_path, [(f"{OLD}CNN", None), (f"{OLD}Pooling", {})])
    for sizes, message in (({"kernel_sizes": [2]}, r"kernel_sizes is \[2\]"), ({"stride_sizes": [2, 1, 1]}, "stride")):
        write(tmp_path / "1_CNN" / "cnn_config.json", {"in_embedding_dimension": 4, **sizes})
        with pytest.raises(UnsupportedError, match=message):
            opened(tmp_path)


def static(root: Path, module_type: str, tensors: dict[str, list[int]], path: str = "") -> Checkpoint:
    """Open a directory with a table of token embeddings alone."""
    (root / path).mkdir(exist_ok=True)
    write_safetensors(root / path / "model.safetensors", tensors)
    write(root / "modules.json", [{"path": path, "type": f"{OLD}{module_type}"}])
    return opened(root)


@pytest.mark.parametrize(
    ("module_type", "tensors", "path", "expected"),
    [
        ("StaticEmbedding", {"embedding.weight": [9, 4]}, "", (9, 9, 4, False, False)),
        ("StaticEmbedding", {"embeddings": [9, 4]}, ".", (9, 9, 4, False, False)),
        ("StaticEmbedding", {"embeddings": [3, 4], "mapping": [9]}, "0_StaticEmbedding", (9, 3, 4, True, False)),
        ("StaticEmbedding", {"embeddings": [3, 4], "mapping": [9], "weights": [9]}, "", (9, 3, 4, True, True)),
    ],
)
def test_static_embeddings(
    tmp_path: Path, module_type: str, tensors: dict[str, list[int]], path: str, expected: tuple[Any, ...]
) -> None:
    checkpoint = static(tmp_path, module_type, tensors, path)
    names = ("vocab_size", "rows", "hidden_size", "is_mapped", "is_weighted")
    assert tuple(checkpoint.config[name] for name in names) == expected
    assert checkpoint.sentence is not None and checkpoint.sentence.model.modules == (Pooling(("mean",)),)
    assert checkpoint.in_parts


def test_static_embeddings_without_a_table(tmp_path: Path) -> None:
    with pytest.raises(CorruptCheckpointError, match=r"has weight, and no table of token embeddings"):
        static(tmp_path, "StaticEmbedding", {"weight": [9]})
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointNotFoundError, match=r"has no model\.safetensors, the weights of StaticEmbedding"):
        opened(tmp_path)
    write(tmp_path / "modules.json", [{"path": "", "type": f"{OLD}BoW"}])
    with pytest.raises(UnsupportedError, match="lists BoW, which isn't supported: it counts words"):
        opened(tmp_path)


def test_the_task_requires_modules(tmp_path: Path) -> None:
    make(tmp_path, [(f"{OLD}Pooling", {})])
    (tmp_path / "modules.json").unlink()
    with pytest.raises(UnsupportedError, match=r"has no modules\.json.*--task feature-extraction"):
        opened(tmp_path, task="sentence-similarity")
    assert opened(tmp_path).sentence is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"transformer_task": "retrieval"}, "transformer_task is 'retrieval'"),
        ({"config_args": {"hidden_act": "relu"}}, "config_args has hidden_act"),
        ({"modality_config": {"image": {"method": "forward"}}}, "modality_config is .*supported is text"),
        ({"modality_config": {"text": {"method": "get_text_features"}}}, "modality_config is .*supported is text"),
    ],
)
def test_settings_of_the_transformer(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    make(tmp_path, [(f"{OLD}Pooling", {})])
    write(tmp_path / "sentence_bert_config.json", settings)
    with pytest.raises(UnsupportedError, match=message):
        opened(tmp_path)


def test_layers_in_fp32(tmp_path: Path) -> None:
    root = cross_encoder(tmp_path, [], keep_in_fp32_modules=["0.model.classifier"])
    assert opened(root).sentence is not None
    with pytest.raises(UnsupportedError, match=r"keep_in_fp32_modules is .*leave out --dtype fp16"):
        opened(root, dtype="fp16")


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
