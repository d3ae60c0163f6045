"""Open a checkpoint: find it on disk or on the Hub, read its configuration, and check its weights by their headers.

Nothing here loads tensors, executes the checkpoint's code, or imports torch.
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
from onnxport.checkpoint.limits import check_sizes
from onnxport.checkpoint.reading import Inventory, list_tensors
from onnxport.checkpoint.sentence_transformers import (
    ListedModule,
    SentenceModules,
    list_modules,
    module_files,
    read_sentence_modules,
    transformer_directory,
    with_route,
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
"""Optional files that contain a JSON object, and descriptions of their contents for messages."""

_PREPROCESSORS = ("tokenizer_config.json", "preprocessor_config.json", "processor_config.json")
_DTYPES = frozenset(
    {"auto", "float32", "float", "float16", "half", "bfloat16", "float64", "double"}
    | {f"float8_{layout}" for layout in ("e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz", "e8m0fnu")}
    | {"int8", "uint8"}
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that passed all checks that don't require tensor data.

    Attributes:
        name: path or repository id, as passed by the caller.
        directory: directory of its files; the snapshot for a Hub repository.
        revision: commit of the snapshot; None for a local directory.
        config: contents of `config.json`; empty for a GGUF file without one.
        format: storage format of the weights.
        weight_files: the weight files, sorted by name.
        gguf_architecture: `general.architecture` of a GGUF file.
        sentence: the sentence-transformers modules after the model, if they are exported too.
        root: the sentence-transformers directory that contains the model; None for other checkpoints.
        more_files: files in `root` that don't belong to the model.
        listed: entries of `modules.json`, with those of the chosen route.
        adapter: adapter to merge into the weights, if any.
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
    listed: tuple[ListedModule, ...] = ()
    adapter: Adapter | None = None

    @property
    def model_type(self) -> str:
        """The configuration's `model_type`, or a GGUF file's architecture."""
        declared = self.config.get("model_type")
        return declared if isinstance(declared, str) else self.gguf_architecture or ""

    @property
    def architectures(self) -> tuple[str, ...]:
        """The configuration's `architectures` (class names): usually one, sometimes none."""
        declared = self.config.get("architectures")
        return tuple(item for item in declared if isinstance(item, str)) if isinstance(declared, list) else ()

    @property
    def module_weights(self) -> Mapping[str, Path]:
        """Weight files of the sentence-transformers modules, by the prefix of their parameter names."""
        return self.sentence.weights if self.sentence else {}

    @property
    def in_parts(self) -> bool:
        """Whether tensors can be read individually, as from safetensors files."""
        suffixes = {path.suffix for path in self.module_weights.values()}
        return self.format == "safetensors" and suffixes <= {".safetensors"}

    @property
    def quantization_config(self) -> dict[str, Any] | None:
        """The `quantization_config` of the configuration or its text configuration; None without one."""
        configs = (self.config, self.config.get("text_config"))
        candidates = [config.get("quantization_config") for config in configs if isinstance(config, dict)]
        return next((settings for settings in candidates if isinstance(settings, dict)), None)

    @property
    def quantization(self) -> str | None:
        """The weights' `quant_method`; None if they are stored in floating point."""
        settings = self.quantization_config
        return None if settings is None else str(settings.get("quant_method"))

    @property
    def is_quantized(self) -> bool:
        """Whether weights are stored as integers with scales, or in another form that is dequantized while loading."""
        return self.format == "gguf" or self.quantization is not None

    @property
    def preprocessor_directory(self) -> Path:
        """Directory of the tokenizer and processor: the adapter's if it has all of its base model's files for them."""
        if self.adapter is None:
            return self.directory
        base, trained = self.directory, self.adapter.directory
        names = [name for name in _PREPROCESSORS if name == "tokenizer_config.json" or (base / name).is_file()]
        return trained if all((trained / name).is_file() for name in names) else base

    def inventory(self) -> Inventory:
        """List the tensors of its safetensors files and its adapter, without reading tensor data.

        Raises:
            CorruptCheckpointError: a file is damaged.
            KeyError: a tensor has a dtype that ONNX doesn't define; the key is that dtype.
        """
        base = list_tensors(self.directory, self.weight_files, self.module_weights)
        return inventory_with(self.adapter, base)


def open_checkpoint(model: str | Path, options: CheckpointOptions) -> Checkpoint:
    """Open a local directory, a GGUF file or a Hub repository; an adapter is opened with its base model.

    Args:
        model: path or `owner/name`; an existing path takes precedence.
        options: revision, cache directory, token, framework, `trust_remote_code`, adapter.

    Raises:
        CheckpointNotFoundError: no such directory, repository, configuration or weights.
        CorruptCheckpointError: a file is truncated, malformed, or contradicts another.
        UntrustedCodeError: the model requires code from its repository, or a pickled file has more than tensors.
        UnsupportedError: the adapter can't be merged.
        OptionError: `trust_remote_code` is set, and the adapter would choose the repository of that code.
        MissingDependencyError: the checkpoint is a GGUF file and the `gguf` package isn't installed.
    """
    if options.adapter is not None:
        return _open_with_adapter(model, options.adapter, options)
    opened = _open(model, options)
    if isinstance(opened, Checkpoint):
        return opened
    base = base_of(opened)
    checkpoint = _open_base(opened, base, options)
    if not isinstance(checkpoint, Checkpoint):
        raise UnsupportedError(f"{opened.name}: its base model {base} is an adapter too; merge that one first")
    return replace(checkpoint, name=str(model), revision=opened.revision, adapter=replace(opened, base=str(base)))


def _open_base(adapter: Adapter, base: str | Path, options: CheckpointOptions) -> Checkpoint | Adapter:
    """Open the base model of an adapter, a local path or a snapshot in the Hub cache, without downloading anything."""
    name = str(base)
    if options.trust_remote_code:
        raise OptionError(
            f"--trust-remote-code would run code of the base model that the adapter {adapter.name} chooses ({name!r}); "
            f"if you trust that, pass the base model as MODEL, and --adapter {adapter.name}"
        )
    if Path(base).expanduser().exists() or not looks_like_repository(name):
        return _open(base, options)
    revision = adapter.config.get("revision") or "main"
    snapshot = find_snapshot(name, revision, options) if isinstance(revision, str) else None
    if snapshot is None:
        raise CheckpointNotFoundError(
            f"{adapter.name} is an adapter of {name!r} at revision {revision!r}, which is neither a local path nor in "
            f"the hub cache; to download it, pass {name} as MODEL, and --adapter {adapter.name}"
        )
    return _open(snapshot, options)


def _open_with_adapter(model: str | Path, adapter: str, options: CheckpointOptions) -> Checkpoint:
    base = _open(model, options)
    if not isinstance(base, Checkpoint):
        raise UnsupportedError(
            f"{model} is an adapter, and --adapter {adapter} is another one; pass their base model as MODEL"
        )
    path = Path(adapter).expanduser()
    if path.is_dir():
        opened = open_adapter(adapter, path)
    elif not path.exists() and looks_like_repository(adapter):
        snapshot = fetch_snapshot(adapter, replace(options, revision=None, framework=None))
        opened = open_adapter(adapter, snapshot, snapshot.name)
    else:
        raise CheckpointNotFoundError(
            f"--adapter {adapter}: there is no such directory, and it isn't a valid hub repository id either; pass the "
            "directory that `PeftModel.save_pretrained(...)` wrote, or owner/name"
        )
    return replace(base, adapter=replace(opened, base=base.name))


def _open(model: str | Path, options: CheckpointOptions) -> Checkpoint | Adapter:
    name = str(model)
    if not name:
        raise CheckpointNotFoundError("the model's name is empty; pass a directory, a .gguf file, or owner/name")
    path = Path(model).expanduser()
    if path.is_file():
        return _open_file(name, path, options)
    if path.is_dir():
        return _open_directory(name, path, None, options)
    if path.exists() or isinstance(model, Path) or not looks_like_repository(name):
        raise CheckpointNotFoundError(
            f"{name}: there is no such directory, and it isn't a valid hub repository id either; "
            f"pass a directory with config.json and weights, or owner/name"
        )
    snapshot = fetch_snapshot(name, options)
    return _open_directory(name, snapshot, snapshot.name, options)


def _open_file(name: str, path: Path, options: CheckpointOptions) -> Checkpoint:
    if path.suffix.lower() != ".gguf":
        raise CheckpointNotFoundError(
            f"{name} is a file; pass the directory of config.json and the weights ({path.parent}), or a .gguf file"
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
    listed = with_route(root, listed, options.route)
    directory = transformer_directory(root, listed)
    sentence = read_sentence_modules(root, listed, options)
    if sentence and sentence.static:
        opened: Checkpoint | Adapter = _assemble(
            name, directory, revision, dict(sentence.static), find_weights(directory, None, {})
        )
    else:
        opened = _open_model(name, directory, revision, options)
    if isinstance(opened, Adapter):
        if listed:
            raise UnsupportedError(
                f"{name}: the adapter of a sentence-transformers directory can't be merged; merge it into its base "
                "model first (PeftModel.merge_and_unload())"
            )
        return opened
    if sentence and sentence.weights and opened.format not in ("safetensors", "pytorch"):
        raise UnsupportedError(
            f"{name}: the modules of {root} need a model with safetensors or PyTorch weights, and its weights "
            f"are {opened.format}; --task feature-extraction exports the model alone"
        )
    return replace(
        opened,
        sentence=sentence,
        root=root if listed else None,
        more_files=tuple(module_files(root, listed)),
        listed=listed,
    )


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
    weights = find_weights(directory, options.framework, config)
    check_sizes(config_path, config, weights.tensors, sum(path.stat().st_size for path in weights.files))
    return _assemble(name, directory, revision, config, weights)


def _assemble(
    name: str, directory: Path, revision: str | None, config: dict[str, Any], weights: FoundWeights
) -> Checkpoint:
    architecture = read_gguf_header(weights.files[0]).architecture if weights.format == "gguf" else None
    if weights.format == "gguf" and not architecture:
        raise CorruptCheckpointError(f"{weights.files[0]}: the GGUF file has no general.architecture; convert it again")
    return Checkpoint(name, directory, revision, config, weights.format, weights.files, architecture)


def _no_config(name: str, directory: Path, revision: str | None) -> CheckpointNotFoundError:
    source = f"{name} at revision {revision}" if revision else str(directory)
    nested = sorted(path.parent.name for path in directory.glob("*/config.json"))
    hint = f"; its subdirectory {', '.join(nested[:3])} has one" if nested else ""
    return CheckpointNotFoundError(
        f"{source} has no config.json, so the model type is unknown{hint}; pass the directory of a saved "
        f"Transformers model (`model.save_pretrained(...)`)"
    )


def _check_config(path: Path, config: dict[str, Any]) -> None:
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        found = "has no model_type" if model_type is None else f"has the model_type {model_type!r}, not a string"
        architectures = config.get("architectures")
        hint = f" (its architectures are {architectures})" if architectures else ""
        raise CorruptCheckpointError(
            f'{path} {found}{hint}; add the line "model_type": "..." with the model type, such as "bert"'
        )
    architectures = config.get("architectures")
    if not (architectures is None or _is_string_list(architectures)):
        raise CorruptCheckpointError(
            f"{path}: architectures is {architectures!r}, which isn't a list of class names; "
            f'correct it to one such as ["BertForMaskedLM"], or remove it and name the task with --task'
        )
    for key in ("dtype", "torch_dtype"):
        declared = config.get(key)
        for value in declared.values() if isinstance(declared, dict) else (declared,):
            if value is not None and (not isinstance(value, str) or value.removeprefix("torch.") not in _DTYPES):
                raise CorruptCheckpointError(
                    f"{path}: {key} is {value!r}, which isn't a dtype that weights can have; "
                    f"correct it to one such as float32, float16 or bfloat16, or remove it"
                )


def _is_string_list(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _check_code(name: str, config: dict[str, Any], options: CheckpointOptions) -> None:
    """Raise if the configuration class is remote code, unless `trust_remote_code` is set."""
    auto_map = config.get("auto_map")
    if not isinstance(auto_map, dict) or "AutoConfig" not in auto_map or options.trust_remote_code:
        return
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if config["model_type"] in CONFIG_MAPPING_NAMES:
        return
    raise UntrustedCodeError(
        f"{name}: the model type {config['model_type']!r} isn't part of Transformers but code of the repository "
        f"({auto_map['AutoConfig']}), which would run on this machine. Read that code, and pass --trust-remote-code "
        f"(trust_remote_code=True) if you trust it"
    )
