"""Read the configuration of each module of a sentence-transformers directory; a module that isn't known is an error.

A setting that a module lacks has the default of sentence-transformers 6.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from onnxport._foreign_errors import translating
from onnxport.checkpoint.json_files import read_json_object
from onnxport.checkpoint.pickled import check_pickled
from onnxport.checkpoint.safetensors import read_header
from onnxport.containment import inside
from onnxport.description import sentence_modules as sentence
from onnxport.description.sentence_modules import (
    LOGITS,
    POOLING_MODES,
    SCORES,
    SENTENCE,
    TOKENS,
    Expansion,
    SentenceModule,
)
from onnxport.errors import CheckpointNotFoundError, CorruptCheckpointError, UnsupportedError

Settings = Mapping[str, Any]

_LEGACY_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Setting of older releases to pooling mode, in the order in which the pooled embeddings are concatenated."""
_ACTIVATIONS = frozenset(
    (
        *("CELU", "ELU", "GELU", "Hardsigmoid", "Hardswish", "Hardtanh", "Identity", "LeakyReLU", "LogSigmoid", "Mish"),
        *("ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softplus", "Softsign", "Tanh", "Tanhshrink"),
    )
)
"""Supported activation functions in `torch.nn`: those of a single value that take no arguments."""
_ACTIVATION_PACKAGES = ("torch.nn", "torch.nn.modules.activation", "torch.nn.modules.linear")
_SPLADE = {"strategies": ("max", "sum"), "activations": ("relu", "log1p_relu")}
MULTI_VECTOR, PYLATE, CROSS_ENCODER = "MultiVectorEncoder", "ColBERT", "CrossEncoder"
"""`model_type` in `config_sentence_transformers.json`: late interaction, as PyLate saved it, and pairs of texts."""


@dataclass(frozen=True)
class ModuleFolder:
    """The directory of a module, and what its configuration depends on.

    Attributes:
        path: the directory.
        model_type: `model_type` in `config_sentence_transformers.json`.
        transformer: settings of the Transformer module.
        tokenizer: directory of the tokenizer.
    """

    path: Path
    model_type: str
    transformer: Settings = field(repr=False)
    tokenizer: Path

    def settings(self, name: str = "config.json", *, required: bool = True) -> Settings:
        """Read the module's configuration.

        Args:
            name: name of the file.
            required: whether a missing file is an error; otherwise, all settings have their defaults.

        Raises:
            CheckpointNotFoundError: the file is missing.
            CorruptCheckpointError: the file isn't a JSON object.
        """
        if not required and not (self.path / name).is_file():
            return {}
        return read_json_object(self.path / name, purpose=f"the configuration of the module {self.path.name}")

    @property
    def file(self) -> Path:
        """Path of the configuration, for messages."""
        return self.path / "config.json"

    @cached_property
    def vocabulary(self) -> Any:
        """The tokenizer of the `tokenizers` package.

        Raises:
            CheckpointNotFoundError: there is no `tokenizer.json`.
            CorruptCheckpointError: `tokenizer.json` can't be read.
        """
        from tokenizers import Tokenizer

        file = self.tokenizer / "tokenizer.json"
        if not file.is_file():
            raise CheckpointNotFoundError(
                f"{self.tokenizer} has no tokenizer.json, in which the tokens that {self.path.name} names are looked "
                "up; load the tokenizer with Transformers and save it again"
            )
        with translating(lambda error: CorruptCheckpointError(f"{file} can't be read ({error}); save it again")):
            return Tokenizer.from_file(str(file))


def _positive(folder: ModuleFolder, settings: Settings, *names: str) -> list[int]:
    """Return settings that must be positive integers."""
    values = [settings.get(name) for name in names]
    if not all(type(value) is int and value > 0 for value in values):
        raise CorruptCheckpointError(
            f"{folder.file}: {' and '.join(names)} are {values}, not positive integers; correct them"
        )
    return [int(value) for value in values if value is not None]


def _features(settings: Settings, default: str = SENTENCE) -> dict[str, str]:
    """Return the features that a module reads and writes."""
    source = str(settings.get("module_input_name") or default)
    return {"source": source, "target": str(settings.get("module_output_name") or source)}


def activation_of(named: object, file: Path) -> str:
    """Return the class name of an activation in `torch.nn`.

    Args:
        named: its full name.
        file: the file that names it.

    Raises:
        UnsupportedError: it isn't supported.
    """
    package, _, name = str(named).rpartition(".")
    if package not in _ACTIVATION_PACKAGES or name not in _ACTIVATIONS:
        raise UnsupportedError(
            f"{file}: unknown activation {named!r}; supported of torch.nn: {', '.join(sorted(_ACTIVATIONS))}"
        )
    return name


def _read_pooling(folder: ModuleFolder) -> sentence.Pooling:
    settings = folder.settings()
    named = settings.get("pooling_mode")
    if named is None:
        modes = tuple(mode for key, mode in _LEGACY_MODES.items() if settings.get(key)) or ("mean",)
    else:
        modes = tuple(named) if isinstance(named, list) else (named,)
    unknown = [mode for mode in modes if mode not in POOLING_MODES]
    if unknown or not modes:
        raise UnsupportedError(
            f"{folder.file}: unknown pooling mode {', '.join(map(repr, unknown)) or '(none)'}; supported: "
            f"{', '.join(POOLING_MODES)}"
        )
    return sentence.Pooling(modes, settings.get("include_prompt", True) is not False)


def _read_dense(folder: ModuleFolder) -> sentence.Dense:
    settings = folder.settings()
    in_features, out_features = _positive(folder, settings, "in_features", "out_features")
    is_multi_vector = folder.model_type in (MULTI_VECTOR, PYLATE)
    return sentence.Dense(
        **_features(settings, TOKENS if is_multi_vector else SENTENCE),
        in_features=in_features,
        out_features=out_features,
        bias=bool(settings.get("bias", True)),
        activation=activation_of(settings.get("activation_function", "torch.nn.Tanh"), folder.file),
        residual=bool(settings.get("use_residual", False)),
    )


def _read_normalize(folder: ModuleFolder) -> sentence.Normalize:
    return sentence.Normalize(**_features(folder.settings(required=False)))


def _read_layer_norm(folder: ModuleFolder) -> sentence.LayerNorm:
    (size,) = _positive(folder, folder.settings(), "dimension")
    return sentence.LayerNorm(size=size)


def _read_dropout(folder: ModuleFolder) -> sentence.Dropout:
    return sentence.Dropout()


def _read_logit_score(folder: ModuleFolder) -> sentence.LogitScore:
    settings = folder.settings()
    true, false = settings.get("true_token_id"), settings.get("false_token_id")
    if type(true) is not int or not (false is None or type(false) is int):
        raise CorruptCheckpointError(
            f"{folder.file}: true_token_id is {true!r} and false_token_id is {false!r}, not token ids; correct them"
        )
    source = str(settings.get("module_input_name") or LOGITS)
    return sentence.LogitScore(source, SCORES, true_token_id=true, false_token_id=false)


def _read_sparse_auto_encoder(folder: ModuleFolder) -> sentence.SparseAutoEncoder:
    settings = {"hidden_dim": 512, "k": 8, **folder.settings()}
    in_features, out_features, count = _positive(folder, settings, "input_dim", "hidden_dim", "k")
    file = folder.path / "model.safetensors"
    is_shared = file.is_file() and "encoder.weight" not in read_header(file)
    return sentence.SparseAutoEncoder(
        in_features=in_features,
        out_features=out_features,
        count=count,
        normalize=bool(settings.get("normalize", False)),
        weight="decoder.linear" if is_shared else "encoder",
    )


def _read_convolutions(folder: ModuleFolder) -> sentence.Convolutions:
    name = "cnn_config.json"
    settings = {"out_channels": 256, "kernel_sizes": [1, 3, 5], **folder.settings(name)}
    settings.setdefault("in_embedding_dimension", settings.get("in_word_embedding_dimension"))
    in_channels, out_channels = _positive(folder, settings, "in_embedding_dimension", "out_channels")
    sizes, strides = settings["kernel_sizes"], settings.get("stride_sizes") or [1]
    if not (isinstance(sizes, list) and sizes and all(type(size) is int and size > 0 and size % 2 for size in sizes)):
        raise UnsupportedError(
            f"{folder.path / name}: kernel_sizes is {sizes!r}; odd sizes are supported, which keep the number of tokens"
        )
    if set(strides) != {1}:
        raise UnsupportedError(
            f"{folder.path / name}: stride_sizes is {strides!r}; only 1 is supported, which keeps the number of tokens"
        )
    features = {"source": TOKENS, "target": TOKENS}
    return sentence.Convolutions(
        **features, in_channels=in_channels, out_channels=out_channels, kernel_sizes=tuple(sizes)
    )


def _read_lstm(folder: ModuleFolder) -> sentence.Lstm:
    settings = {"num_layers": 1, **folder.settings("lstm_config.json")}
    settings.setdefault("embedding_dimension", settings.get("word_embedding_dimension"))
    in_features, hidden_size, layers = _positive(folder, settings, "embedding_dimension", "hidden_dim", "num_layers")
    return sentence.Lstm(
        source=TOKENS,
        target=TOKENS,
        in_features=in_features,
        hidden_size=hidden_size,
        layers=layers,
        bidirectional=bool(settings.get("bidirectional", True)),
    )


def _read_layer_pooling(folder: ModuleFolder) -> sentence.LayerPooling:
    settings = {"num_hidden_layers": 12, "layer_start": 4, **folder.settings()}
    last, start = settings["num_hidden_layers"], settings["layer_start"]
    if not (type(last) is int and type(start) is int and 0 <= start <= last):
        raise CorruptCheckpointError(
            f"{folder.file}: layer_start is {start!r} and num_hidden_layers is {last!r}; the first must be the "
            "index of a layer"
        )
    config = folder.tokenizer / "config.json"
    model = read_json_object(config, purpose="the model's configuration") if config.is_file() else {}
    depth = next((model[name] for name in _DEPTHS if isinstance(model.get(name), int)), last)
    if depth != last:
        raise CorruptCheckpointError(
            f"{folder.file}: num_hidden_layers is {last}, and {depth} in {config}; correct the first, and layer_weights"
        )
    return sentence.LayerPooling(start, last + 1 - start)


_DEPTHS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers")
"""Settings of a model with its number of layers."""


def _read_word_weights(folder: ModuleFolder) -> sentence.WordWeights:
    """Read the weights by word; sentence-transformers doesn't load the file of tensors in this directory either."""
    settings = folder.settings()
    words, weights = settings.get("vocab"), settings.get("word_weights")
    default = settings.get("unknown_word_weight", 1)
    if not isinstance(words, list) or not words or not isinstance(weights, Mapping):
        raise CorruptCheckpointError(f"{folder.file} needs vocab, a list, and word_weights, an object; save it again")
    try:
        found = [weights.get(word, weights.get(word.lower(), default)) for word in words]
        return sentence.WordWeights(tuple(float(weight) for weight in found))
    except (TypeError, ValueError, AttributeError) as error:
        raise CorruptCheckpointError(
            f"{folder.file}: vocab must have words, and word_weights and unknown_word_weight numbers ({error})"
        ) from error


def _read_splade_pooling(folder: ModuleFolder) -> sentence.SpladePooling:
    settings = folder.settings()
    strategy, activation = settings.get("pooling_strategy", "max"), settings.get("activation_function", "relu")
    if strategy not in _SPLADE["strategies"] or activation not in _SPLADE["activations"]:
        raise UnsupportedError(
            f"{folder.file}: pooling_strategy is {strategy!r} and activation_function is {activation!r}; supported are "
            f"{', '.join(_SPLADE['strategies'])}, and {', '.join(_SPLADE['activations'])}"
        )
    return sentence.SpladePooling(strategy, 1 + (activation == "log1p_relu"))


def _read_scoring_mask(folder: ModuleFolder) -> sentence.ScoringMask:
    settings = folder.settings(required=False)
    tasks = settings.get("skiplist_tasks") or ["document"]
    skipped = skipped_token_ids(folder, settings.get("skiplist_words") or ())
    kept = settings.get("keep_only_token_ids") or ()
    if not all(type(token_id) is int for token_id in kept):
        raise CorruptCheckpointError(f"{folder.file}: keep_only_token_ids is {kept!r}, not a list of token ids")
    return sentence.ScoringMask(
        skipped if "query" in tasks else (), skipped if "document" in tasks else (), tuple(kept), expansion_of(folder)
    )


def scoring_mask_of_pylate(folder: ModuleFolder, words: object) -> sentence.ScoringMask:
    """Return the mask that PyLate computes without a module of its own.

    Args:
        folder: the directory of the model.
        words: `skiplist_words` in `config_sentence_transformers.json`; None for punctuation.
    """
    skipped = skipped_token_ids(folder, string.punctuation if words is None else words)
    return sentence.ScoringMask((), skipped, (), expansion_of(folder))


def skipped_token_ids(folder: ModuleFolder, words: object) -> tuple[int, ...]:
    """Return the ids of words that are single tokens; the others are skipped by no mask.

    Raises:
        CorruptCheckpointError: they aren't a list of words.
    """
    if not isinstance(words, list | tuple | str) or not all(isinstance(word, str) for word in words):
        raise CorruptCheckpointError(f"{folder.file}: skiplist_words is {words!r}, not a list of words; correct it")
    found = [folder.vocabulary.token_to_id(word) for word in words]
    unknown = folder.vocabulary.token_to_id(_special_token(folder, "unk_token") or "")
    return tuple(sorted({token_id for token_id in found if token_id is not None and token_id != unknown}))


def expansion_of(folder: ModuleFolder) -> Expansion | None:
    """Return the tokens that extend queries.

    Raises:
        CorruptCheckpointError: the setting is malformed, or the token isn't in the vocabulary.
    """
    expansion = folder.transformer.get("query_expansion")
    if expansion is None:
        return None
    length = expansion.get("length") if isinstance(expansion, Mapping) else None
    if type(length) is not int or length < 1:
        raise CorruptCheckpointError(f"{folder.tokenizer}: query_expansion is {expansion!r}, which has no length")
    named = expansion.get("token")
    token = named or _special_token(folder, "mask_token") or _special_token(folder, "eos_token")
    token_id = folder.vocabulary.token_to_id(token) if isinstance(token, str) else None
    if token_id is None:
        raise CorruptCheckpointError(
            f"{folder.tokenizer}: queries are extended with {token!r}, which isn't in tokenizer.json; name a token in "
            "query_expansion"
        )
    return Expansion(token_id, length)


def _special_token(folder: ModuleFolder, name: str) -> str | None:
    for file in (folder.tokenizer / "tokenizer_config.json", folder.tokenizer / "special_tokens_map.json"):
        named = read_json_object(file, purpose="the special tokens").get(name) if file.is_file() else None
        token = named.get("content") if isinstance(named, Mapping) else named
        if isinstance(token, str):
            return token
    return None


def static_settings(folder: Path, module_type: str) -> dict[str, Any]:
    """Return the configuration of a model that is a table of token embeddings, from the header of its file.

    Args:
        folder: directory of the module.
        module_type: its class name.

    Raises:
        CheckpointNotFoundError: there is no `model.safetensors`.
        CorruptCheckpointError: the file is damaged, or has no table.
    """
    file = folder / "model.safetensors"
    if not file.is_file():
        raise CheckpointNotFoundError(
            f"{folder} has no model.safetensors, the weights of {module_type}; download it, or load and save the model "
            "with sentence-transformers 6"
        )
    inside(folder, file)
    shapes = {name: entry.shape for name, entry in read_header(file).items()}
    base = {"model_type": "static_embedding", "architectures": [module_type]}
    if module_type == "SparseStaticEmbedding" and len(shapes.get("weight", ())) == 1:
        return {**base, "vocab_size": shapes["weight"][0], "hidden_size": 0}
    table = next((name for name in _TABLES.get(module_type, ()) if len(shapes.get(name, ())) == 2), None)
    if table is None:
        raise CorruptCheckpointError(f"{file} has {', '.join(shapes)}, and no table of token embeddings; save it again")
    rows, size = shapes[table]
    is_folded = table == "embeddings"
    mapping, weights = (shapes.get(name) if is_folded else None for name in ("mapping", "weights"))
    (vocabulary,) = mapping or weights or (rows,)
    flags = {"is_mapped": mapping is not None, "is_weighted": weights is not None}
    return {**base, "vocab_size": vocabulary, "hidden_size": size, "rows": rows, "table": table, **flags}


_TABLES = {"StaticEmbedding": ("embedding.weight", "embeddings"), "WordEmbeddings": ("emb_layer.weight",)}
"""Class name to the names of its table in the checkpoint."""


def weights_in(folder: Path) -> Path:
    """Return the file with a module's tensors.

    Raises:
        CheckpointNotFoundError: there is none.
        CorruptCheckpointError: it is damaged.
        UntrustedCodeError: it is pickled and has more than tensors.
    """
    names = ("model.safetensors", "pytorch_model.bin")
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        raise CheckpointNotFoundError(
            f"{folder} has neither model.safetensors nor pytorch_model.bin, the module's weights; download them too"
        )
    inside(folder, file)
    if file.suffix == ".safetensors":
        read_header(file)
    else:
        check_pickled(file)
    return file


READERS: Mapping[str, Callable[[ModuleFolder], SentenceModule]] = {
    "Pooling": _read_pooling,
    "Dense": _read_dense,
    "Normalize": _read_normalize,
    "LayerNorm": _read_layer_norm,
    "Dropout": _read_dropout,
    "LogitScore": _read_logit_score,
    "SparseAutoEncoder": _read_sparse_auto_encoder,
    "CNN": _read_convolutions,
    "LSTM": _read_lstm,
    "WeightedLayerPooling": _read_layer_pooling,
    "WordWeights": _read_word_weights,
    "SpladePooling": _read_splade_pooling,
    "MultiVectorMask": _read_scoring_mask,
}
"""Class name to the function that reads a module."""
WITH_WEIGHTS = (
    sentence.Dense,
    sentence.LayerNorm,
    sentence.SparseAutoEncoder,
    sentence.Convolutions,
    sentence.Lstm,
    sentence.LayerPooling,
)
"""Modules with a file of tensors."""
REASONS: Mapping[str, str] = {
    "BoW": "it counts words before any tensor is computed",
    "CLIPModel": "it has one embedding for images and one for text; export the model in its directory with "
    "--split-encoders",
    "HierarchicalTokenPooling": "it clusters tokens with SciPy; pool the token embeddings that the graph returns",
    "LambdaTokenPooling": "it runs Python code; pool the token embeddings that the graph returns",
}
"""Class name to the reason why a module of sentence-transformers 6 can't be part of a graph."""
