"""Open a checkpoint: find it on disk or on the hub, read its configuration, check its weights by their headers.

Nothing here loads tensors, executes code of the checkpoint, or imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnxport.architectures.timm_wrapper import with_model_type
from onnxport.checkpoint.adapters import Adapter, base_of, inventory_with, is_adapter, open_adapter
from onnxport.checkpoint.discovery import FoundWeights, WeightFormat, check_gguf, find_weights, has_weights
from onnxport.checkpoint.gguf import read_gguf_header
from onnxport.checkpoint.hub import fetch_snapshot, find_snapshot, looks_like_repository
from onnxport.checkpoint.json_files import read_json_object
from onnxport.checkpoint.reading import Inventory, take_inventory
from onnxport.checkpoint.sentence_transformers import (
    SentenceModules,
    list_modules,
    module_files,
    read_sentence_modules,
    trunk_directory,
)
from onnxport.containment import check_links
from onnxport.errors import (
    CheckpointNotFoundError,
    CorruptCheckpointError,
    OptionError,
    UnsupportedError,
    UntrustedCodeError,
)
from onnxport.options import CheckpointOptions

SIDE_JSON_FILES: dict[str, str] = {
    "generation_config.json": "the generation settings",
    "tokenizer.json": "the tokenizer",
    "tokenizer_config.json": "the tokenizer's settings",
    "special_tokens_map.json": "the tokenizer's special tokens",
    "added_tokens.json": "the tokenizer's added tokens",
    "preprocessor_config.json": "the preprocessor's settings",
    "processor_config.json": "the processor's settings",
}
"""JSON files that must be objects when they are there → what they are."""

_PREPROCESSORS = ("tokenizer_config.json", "preprocessor_config.json", "processor_config.json")
_DTYPES = frozenset(
    {"auto", "float32", "float", "float16", "half", "bfloat16", "float64", "double"}
    | {f"float8_{kind}" for kind in ("e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz", "e8m0fnu")}
    | {"int8", "uint8"}
)


@dataclass(frozen=True)
class Checkpoint:
    """Describe a checkpoint that passed every check that needs no tensor.

    Attributes:
        name: as the user gave it.
        directory: where its files are; the snapshot for a repository of the hub.
        revision: commit of the snapshot; `None` for a local directory.
        config: content of `config.json`; empty for a bare GGUF file.
        format: how the weights are stored.
        weight_files: the weights, in the order of their names.
        gguf_architecture: architecture that a GGUF file declares.
        sentence: what makes embeddings of the model's states, where that is part of what is exported.
        root: the sentence-transformers directory that the model is part of; None where it isn't.
        more_files: files of that directory beside those of the model.
        adapter: what is merged into the weights; None for nothing.
    """

    name: str
    directory: Path
    revision: str | None
    config: dict[str, Any] = field(repr=False)
    format: WeightFormat
    weight_files: tuple[Path, ...]
    gguf_architecture: str | None = None
    sentence: SentenceModules | None = None
    root: Path | None = None
    more_files: tuple[Path, ...] = ()
    adapter: Adapter | None = None

    @property
    def model_type(self) -> str:
        """The model type that the configuration declares, or a GGUF file's architecture."""
        declared = self.config.get("model_type")
        return declared if isinstance(declared, str) else self.gguf_architecture or ""

    @property
    def architectures(self) -> tuple[str, ...]:
        """The model classes that the configuration declares; usually one, sometimes none."""
        declared = self.config.get("architectures")
        return tuple(item for item in declared if isinstance(item, str)) if isinstance(declared, list) else ()

    @property
    def module_weights(self) -> Mapping[str, Path]:
        """Files with tensors of what follows the model, by what their names begin with inside it."""
        return self.sentence.weights if self.sentence else {}

    @property
    def in_parts(self) -> bool:
        """Whether every tensor can be read alone."""
        kinds = {path.suffix for path in self.module_weights.values()}
        return self.format == "safetensors" and kinds <= {".safetensors"}

    @property
    def quantization(self) -> str | None:
        """The method that its weights are quantized with; None where they are stored in floating point."""
        parts = (self.config, self.config.get("text_config"))
        found = [part.get("quantization_config") for part in parts if isinstance(part, dict)]
        return next((str(settings.get("quant_method")) for settings in found if isinstance(settings, dict)), None)

    @property
    def preprocessor_directory(self) -> Path:
        """Where its tokenizer and processor are: beside the adapter, where training saved all that the base has."""
        if self.adapter is None:
            return self.directory
        base, own = self.directory, self.adapter.directory
        names = [name for name in _PREPROCESSORS if name == "tokenizer_config.json" or (base / name).is_file()]
        return own if all((own / name).is_file() for name in names) else base

    def inventory(self) -> Inventory:
        """List the tensors of its safetensors files, and its adapter's; no tensor is read.

        Raises:
            CorruptCheckpointError: a file is damaged.
            KeyError: a tensor has a type that ONNX doesn't have, which is the key.
        """
        base = take_inventory(self.directory, self.weight_files, self.module_weights)
        return inventory_with(self.adapter, base)


def open_checkpoint(model: str | Path, options: CheckpointOptions) -> Checkpoint:
    """Open a local directory, a GGUF file, or a repository of the hub; an adapter is opened with its base.

    Args:
        model: path or `owner/name`; what exists as a path is taken as one.
        options: revision, cache directory, token, framework, whether code may run, adapter.

    Raises:
        CheckpointNotFoundError: no such directory, repository, configuration or weights.
        CorruptCheckpointError: a file is truncated, malformed, or contradicts another.
        UntrustedCodeError: it needs its own code, or a pickled file holds more than tensors.
        UnsupportedError: an adapter isn't one that is merged here.
        OptionError: code may run, and an adapter would choose whose.
        MissingDependencyError: it is a GGUF file and the `gguf` package isn't installed.
    """
    if options.adapter is not None:
        return _open_with_adapter(model, options.adapter, options)
    opened = _open(model, options)
    if isinstance(opened, Checkpoint):
        return opened
    base = base_of(opened)
    own = _open_base(opened, base, options)
    if not isinstance(own, Checkpoint):
        raise UnsupportedError(f"{opened.name}: its base {base} is an adapter too; merge that one first")
    return replace(own, name=str(model), revision=opened.revision, adapter=replace(opened, base=str(base)))


def _open_base(adapter: Adapter, base: str | Path, options: CheckpointOptions) -> Checkpoint | Adapter:
    """Open the base that an adapter names: a path, or a snapshot in the hub's cache; nothing is fetched for it."""
    name = str(base)
    if options.trust_remote_code:
        raise OptionError(
            f"--trust-remote-code would let code of the base run that the adapter {adapter.name} chooses ({name!r}); "
            f"if you trust that, give the base as MODEL, and --adapter {adapter.name}"
        )
    if Path(base).expanduser().exists() or not looks_like_repository(name):
        return _open(base, options)
    revision = adapter.config.get("revision") or "main"
    snapshot = find_snapshot(name, revision, options) if isinstance(revision, str) else None
    if snapshot is None:
        raise CheckpointNotFoundError(
            f"{adapter.name} is an adapter of {name!r} at revision {revision!r}, which is no path here and not in the "
            f"hub's cache; it is fetched if you name it: give {name} as MODEL, and --adapter {adapter.name}"
        )
    return _open(snapshot, options)


def _open_with_adapter(model: str | Path, adapter: str, options: CheckpointOptions) -> Checkpoint:
    base = _open(model, options)
    if not isinstance(base, Checkpoint):
        raise UnsupportedError(
            f"{model} is an adapter, and --adapter {adapter} is another one; give their base as MODEL"
        )
    path = Path(adapter).expanduser()
    if path.is_dir():
        found = open_adapter(adapter, path)
    elif not path.exists() and looks_like_repository(adapter):
        snapshot = fetch_snapshot(adapter, replace(options, revision=None, framework=None))
        found = open_adapter(adapter, snapshot, snapshot.name)
    else:
        raise CheckpointNotFoundError(
            f"--adapter {adapter}: there is no such directory, and it can't be the name of a repository of the hub "
            "either; give the directory that `PeftModel.save_pretrained(...)` wrote, or owner/name"
        )
    return replace(base, adapter=replace(found, base=base.name))


def _open(model: str | Path, options: CheckpointOptions) -> Checkpoint | Adapter:
    name = str(model)
    if not name:
        raise CheckpointNotFoundError("the model's name is empty; give a directory, a .gguf file, or owner/name")
    path = Path(model).expanduser()
    if path.is_file():
        return _open_file(name, path, options)
    if path.is_dir():
        return _open_directory(name, path, None, options)
    if path.exists() or isinstance(model, Path) or not looks_like_repository(name):
        raise CheckpointNotFoundError(
            f"{name}: there is no such directory, and it can't be the name of a repository of the hub either; "
            f"give a directory with config.json and weights, or owner/name"
        )
    snapshot = fetch_snapshot(name, options)
    return _open_directory(name, snapshot, snapshot.name, options)


def _open_file(name: str, path: Path, options: CheckpointOptions) -> Checkpoint:
    if path.suffix.lower() != ".gguf":
        raise CheckpointNotFoundError(
            f"{name} is a file; give the directory that holds config.json and the weights ({path.parent}), "
            f"or a .gguf file"
        )
    if options.framework == "tf":
        raise CheckpointNotFoundError(f"{name} is a GGUF file, and --framework tf reads tf_model.h5; leave it out")
    read_sentence_modules(path, (), options)
    return _assemble(name, path.parent, None, {}, check_gguf(path))


def _open_directory(
    name: str, directory: Path, revision: str | None, options: CheckpointOptions
) -> Checkpoint | Adapter:
    check_links(directory)
    root, listed = directory, list_modules(directory)
    directory = trunk_directory(root, listed)
    sentence = read_sentence_modules(root, listed, options)
    found = _open_model(name, directory, revision, options)
    if isinstance(found, Adapter):
        if listed:
            raise UnsupportedError(
                f"{name}: the adapter of a sentence-transformers directory isn't merged here; merge it into its base "
                "first (PeftModel.merge_and_unload())"
            )
        return found
    if sentence and sentence.weights and found.format not in ("safetensors", "pytorch"):
        raise UnsupportedError(
            f"{name}: the Dense modules of {root} are read beside safetensors and PyTorch weights, and these are "
            f"{found.format}; --task feature-extraction exports the model alone"
        )
    around = root if listed else None
    return replace(found, sentence=sentence, root=around, more_files=tuple(module_files(root, listed)))


def _open_model(name: str, directory: Path, revision: str | None, options: CheckpointOptions) -> Checkpoint | Adapter:
    config_path = directory / "config.json"
    if is_adapter(directory) and not has_weights(directory):
        return open_adapter(name, directory, revision)
    if not config_path.is_file():
        if options.framework != "tf" and any(directory.glob("*.gguf")):
            return _assemble(name, directory, revision, {}, find_weights(directory, options.framework, {}))
        raise _no_config(name, directory, revision)
    config = with_model_type(read_json_object(config_path, purpose="the model's configuration"))
    _check_config(config_path, config)
    _check_code(name, config, options)
    for file_name, purpose in SIDE_JSON_FILES.items():
        if (directory / file_name).is_file():
            read_json_object(directory / file_name, purpose=purpose)
    return _assemble(name, directory, revision, config, find_weights(directory, options.framework, config))


def _assemble(
    name: str, directory: Path, revision: str | None, config: dict[str, Any], weights: FoundWeights
) -> Checkpoint:
    architecture = read_gguf_header(weights.files[0]).architecture if weights.format == "gguf" else None
    if weights.format == "gguf" and not architecture:
        raise CorruptCheckpointError(
            f"{weights.files[0]}: the GGUF file doesn't say its architecture (general.architecture); convert it again"
        )
    return Checkpoint(name, directory, revision, config, weights.format, weights.files, architecture)


def _no_config(name: str, directory: Path, revision: str | None) -> CheckpointNotFoundError:
    where = f"{name} at revision {revision}" if revision else str(directory)
    nested = sorted(path.parent.name for path in directory.glob("*/config.json"))
    hint = f"; {', '.join(nested[:3])} below it has one" if nested else ""
    return CheckpointNotFoundError(
        f"{where} has no config.json, so the model's type isn't known{hint}; give the directory of a saved "
        f"Transformers model (`model.save_pretrained(...)`)"
    )


def _check_config(path: Path, config: dict[str, Any]) -> None:
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        found = "has no model_type" if model_type is None else f"has the model_type {model_type!r}, not a text"
        architectures = config.get("architectures")
        hint = f" (its architectures are {architectures})" if architectures else ""
        raise CorruptCheckpointError(
            f'{path} {found}{hint}; add the line "model_type": "..." with the type of the model, such as "bert"'
        )
    architectures = config.get("architectures")
    if not (architectures is None or _is_texts(architectures)):
        raise CorruptCheckpointError(
            f"{path}: architectures is {architectures!r}, which isn't a list of class names; "
            f'correct it to one such as ["BertForMaskedLM"], or remove it and name the task with --task'
        )
    for key in ("dtype", "torch_dtype"):
        declared = config.get(key)
        for value in declared.values() if isinstance(declared, dict) else (declared,):
            if value is not None and (not isinstance(value, str) or value.removeprefix("torch.") not in _DTYPES):
                raise CorruptCheckpointError(
                    f"{path}: {key} is {value!r}, which isn't a dtype of weights; "
                    f"correct it to one such as float32, float16 or bfloat16, or remove it"
                )


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _check_code(name: str, config: dict[str, Any], options: CheckpointOptions) -> None:
    """Refuse a model whose configuration class is code of its repository, unless that was allowed."""
    auto_map = config.get("auto_map")
    if not isinstance(auto_map, dict) or "AutoConfig" not in auto_map or options.trust_remote_code:
        return
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if config["model_type"] in CONFIG_MAPPING_NAMES:
        return
    raise UntrustedCodeError(
        f"{name}: the model type {config['model_type']!r} isn't part of Transformers; it is code of the repository "
        f"({auto_map['AutoConfig']}), which would run on this machine. Read that code, and pass --trust-remote-code "
        f"(trust_remote_code=True) if you trust it"
    )
