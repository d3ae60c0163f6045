"""Read `modules.json` of a sentence-transformers directory, and the configurations of the modules that it lists."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxport.checkpoint.json_files import read_json_object
from onnxport.checkpoint.pickled import check_pickled
from onnxport.checkpoint.safetensors import read_header
from onnxport.containment import check_links, files_inside, inside
from onnxport.description.sentence_embedding import POOLING_MODES, Dense, Normalize, Pooling, SentenceModule, prefix_of
from onnxport.description.tasks import SENTENCE_SIMILARITY, canonical_task
from onnxport.errors import CheckpointNotFoundError, CorruptCheckpointError, UnsupportedError
from onnxport.options import CheckpointOptions

LIST_FILE = "modules.json"
SETTINGS_FILE = "config_sentence_transformers.json"
MODULE_FOLDER = re.compile(r"\d+_\w+")
"""Pattern of module directories, such as `1_Pooling`."""
TRANSFORMER_SETTINGS = "sentence_*_config.json"
"""Pattern of the Transformer module's settings files (maximum sequence length, lower case)."""

_LEGACY_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Setting of older releases to pooling mode, in the order in which the pooled embeddings are concatenated."""
_ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid", "LeakyReLU", "ELU", "Mish", "Softsign")
"""Supported activation functions in `torch.nn`, which take no arguments."""
_EMBEDDING = "sentence_embedding"


@dataclass(frozen=True)
class ListedModule:
    """An entry in `modules.json`.

    Attributes:
        type: class name, such as `Transformer` for `sentence_transformers.models.Transformer`; the full path for
            classes from other packages.
        path: directory relative to the checkpoint's; empty for the checkpoint's directory.
    """

    type: str
    path: str


@dataclass(frozen=True)
class SentenceModules:
    """The modules after the Transformer module.

    Attributes:
        modules: the modules, in order of computation.
        weights: weight files by the prefix of the module's parameter names in the exported model.
    """

    modules: tuple[SentenceModule, ...]
    weights: Mapping[str, Path] = field(default_factory=dict)


def list_modules(directory: Path) -> tuple[ListedModule, ...]:
    """Read `modules.json`.

    Returns:
        The entries; empty if the directory has no `modules.json`.

    Raises:
        CorruptCheckpointError: the file isn't a list of modules, or lists a path outside the directory.
    """
    file = directory / LIST_FILE
    if not file.is_file():
        return ()
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))
        entries = [(module["type"], module["path"]) for module in listed]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CorruptCheckpointError(
            f"{file} isn't a list of modules, each with type and path ({type(error).__name__}: {error}); download or "
            "save the file again"
        ) from error
    if not entries or not all(isinstance(text, str) for entry in entries for text in entry):
        raise CorruptCheckpointError(
            f"{file} must list at least one module, with strings as type and path; download or save the file again"
        )
    for _, path in entries:
        if path:  # empty for the directory itself
            check_links(inside(directory, path, file))
    return tuple(ListedModule(_short_name(module_type), path) for module_type, path in entries)


def _short_name(name: str) -> str:
    return name.rpartition(".")[2] if name.startswith("sentence_transformers.") else name


def transformer_directory(directory: Path, listed: tuple[ListedModule, ...]) -> Path:
    """Return the Transformer module's directory: the checkpoint's, or the subdirectory that older releases created."""
    if listed and not (directory / "config.json").is_file():
        return directory / listed[0].path
    return directory


def module_files(directory: Path, listed: tuple[ListedModule, ...]) -> list[Path]:
    """List the files of a sentence-transformers directory that don't belong to the Transformer module."""
    transformer = transformer_directory(directory, listed)
    files = [*files_inside(directory, LIST_FILE), *files_inside(directory, SETTINGS_FILE)] if listed else []
    files += files_inside(transformer, TRANSFORMER_SETTINGS) if listed else []
    for module in listed[1:]:
        if module.path:
            files += files_inside(directory / module.path, "*")
    return files


def read_sentence_modules(
    directory: Path, listed: tuple[ListedModule, ...], options: CheckpointOptions
) -> SentenceModules | None:
    """Read the modules after the Transformer module, if they are exported with it.

    Args:
        directory: directory of `modules.json`.
        listed: entries of `modules.json`.
        options: the task, if any.

    Returns:
        The modules; None for another task, or for a cross-encoder.

    Raises:
        UnsupportedError: the task is sentence-similarity and there is no `modules.json`, or a module isn't supported.
        CorruptCheckpointError: the configuration of a module is malformed.
        CheckpointNotFoundError: the configuration or the weights of a module are missing.
    """
    is_requested = options.task is not None and canonical_task(options.task).name == SENTENCE_SIMILARITY
    if is_requested and not listed:
        raise UnsupportedError(
            f"{directory} has no {LIST_FILE}, which defines how an embedding is computed from the hidden states "
            "(pooling, normalization); give a directory that sentence-transformers saved, or --task feature-extraction "
            "for the hidden states alone"
        )
    if not is_requested and (
        options.task is not None or options.split_encoders or not listed or _is_cross_encoder(directory)
    ):
        return None
    unknown = [module.type for module in listed[1:] if module.type not in _READERS]
    if listed[0].type != "Transformer":
        unknown.insert(0, listed[0].type)
    if unknown:
        raise UnsupportedError(
            f"{directory / LIST_FILE} lists {', '.join(unknown)}, but only a Transformer followed by Pooling, Dense "
            "and Normalize is supported; --task feature-extraction exports the Transformer alone"
        )
    _check_order(directory, listed)
    _check_transformer(directory, listed)
    modules: list[SentenceModule] = []
    weights: dict[str, Path] = {}
    for index, module in enumerate(listed[1:]):
        folder = directory / module.path
        modules.append(_READERS[module.type](folder))
        if module.type == "Dense":
            weights[prefix_of(index)] = _weights_in(folder)
    return SentenceModules(tuple(modules), weights)


def _is_cross_encoder(directory: Path) -> bool:
    """Return whether the model is a cross-encoder, which scores pairs of sequences instead of returning embeddings."""
    file = directory / SETTINGS_FILE
    settings = read_json_object(file, purpose="the settings of sentence-transformers") if file.is_file() else {}
    return settings.get("model_type") == "CrossEncoder"


def _check_order(directory: Path, listed: tuple[ListedModule, ...]) -> None:
    types = [module.type for module in listed]
    if types.count("Pooling") != 1 or types[1] != "Pooling":
        raise UnsupportedError(
            f"{directory / LIST_FILE} lists {', '.join(types)}: the second must be the only Pooling; "
            "--task feature-extraction exports the Transformer alone"
        )


def _check_transformer(directory: Path, listed: tuple[ListedModule, ...]) -> None:
    for file in files_inside(transformer_directory(directory, listed), TRANSFORMER_SETTINGS):
        task = read_json_object(file, purpose="the Transformer's settings").get(
            "transformer_task", "feature-extraction"
        )
        if task != "feature-extraction":
            raise UnsupportedError(
                f"{file}: transformer_task is {task!r}, and embeddings are computed from the outputs of "
                "feature-extraction"
            )


def _module_settings(folder: Path, *, required: bool = True) -> dict[str, Any]:
    file = folder / "config.json"
    if not required and not file.is_file():
        return {}
    return read_json_object(file, purpose=f"the configuration of the module {folder.name}")


def _read_pooling(folder: Path) -> Pooling:
    settings = _module_settings(folder)
    named = settings.get("pooling_mode")
    if named is None:
        modes = tuple(mode for key, mode in _LEGACY_MODES.items() if settings.get(key)) or ("mean",)
    else:
        modes = tuple(named) if isinstance(named, list) else (named,)
    unknown = [mode for mode in modes if mode not in POOLING_MODES]
    if unknown or not modes:
        raise UnsupportedError(
            f"{folder / 'config.json'}: unknown pooling mode {', '.join(map(repr, unknown)) or '(none)'}; supported: "
            f"{', '.join(POOLING_MODES)}"
        )
    if settings.get("include_prompt", True) is False:
        raise UnsupportedError(
            f"{folder / 'config.json'}: the prompt is excluded from pooling (include_prompt is false), and its length "
            "isn't an input of the graph; --task feature-extraction exports the Transformer alone"
        )
    return Pooling(modes)


def _read_dense(folder: Path) -> Dense:
    settings, file = _module_settings(folder), folder / "config.json"
    _check_names(settings, file)
    sizes = [settings.get("in_features"), settings.get("out_features")]
    if not all(type(size) is int and size > 0 for size in sizes):
        raise CorruptCheckpointError(
            f"{file}: in_features and out_features are {sizes}, not positive integers; correct them"
        )
    named = str(settings.get("activation_function") or "torch.nn.modules.activation.Tanh")
    activation = named.rpartition(".")[2]
    if not named.startswith("torch.nn.modules.") or activation not in _ACTIVATIONS:
        raise UnsupportedError(
            f"{file}: unknown activation {named!r}; supported of torch.nn.modules: {', '.join(_ACTIVATIONS)}"
        )
    bias, residual = settings.get("bias", True), settings.get("use_residual", False)
    return Dense(int(sizes[0]), int(sizes[1]), bool(bias), activation, bool(residual))  # type: ignore[arg-type]


def _read_normalize(folder: Path) -> Normalize:
    _check_names(_module_settings(folder, required=False), folder / "config.json")
    return Normalize()


def _check_names(settings: Mapping[str, Any], file: Path) -> None:
    for key in ("module_input_name", "module_output_name"):
        if settings.get(key) not in (None, _EMBEDDING):
            raise UnsupportedError(f"{file}: {key} is {settings[key]!r}, but only {_EMBEDDING!r} is supported")


_READERS: dict[str, Callable[[Path], SentenceModule]] = {
    "Pooling": _read_pooling,
    "Dense": _read_dense,
    "Normalize": _read_normalize,
}


def _weights_in(folder: Path) -> Path:
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
