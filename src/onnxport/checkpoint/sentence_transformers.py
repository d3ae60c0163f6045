"""Read what a sentence-transformers directory says: `modules.json`, and the settings of each module that it lists."""

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
"""Name of a module's directory, as sentence-transformers makes it."""
TRUNK_SETTINGS = "sentence_*_config.json"
"""Pattern of the files that say how the model in such a directory reads texts."""

_OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Switches of older releases to modes, in the order in which their states are put together."""
_WITHOUT_ARGUMENTS = ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid", "LeakyReLU", "ELU", "Mish", "Softsign")
"""Activations of `torch.nn` that a directory names and that need no settings."""
_EMBEDDING = "sentence_embedding"


@dataclass(frozen=True)
class ListedModule:
    """Name a module of `modules.json`.

    Attributes:
        kind: its class, `Transformer` for `sentence_transformers.models.Transformer`; whole for classes of others.
        path: its directory inside the checkpoint's, empty for that itself.
    """

    kind: str
    path: str


@dataclass(frozen=True)
class SentenceModules:
    """Hold what follows the model.

    Attributes:
        modules: what is computed, in order.
        weights: prefix of the names inside the model → file with the tensors of a module.
    """

    modules: tuple[SentenceModule, ...]
    weights: Mapping[str, Path] = field(default_factory=dict)


def list_modules(directory: Path) -> tuple[ListedModule, ...]:
    """Read `modules.json`; nothing where there is none.

    Raises:
        CorruptCheckpointError: it isn't a list of modules, or names a place outside of the directory.
    """
    file = directory / LIST_FILE
    if not file.is_file():
        return ()
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))
        found = [(module["type"], module["path"]) for module in listed]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CorruptCheckpointError(
            f"{file} isn't a list of modules, each with type and path ({type(error).__name__}: {error}); download or "
            "save the file again"
        ) from error
    if not found or not all(isinstance(text, str) for pair in found for text in pair):
        raise CorruptCheckpointError(
            f"{file} must list modules by texts, at least one; download or save the file again"
        )
    for _, path in found:
        if path:  # empty for the directory itself
            check_links(inside(directory, path, file))
    return tuple(ListedModule(_kind(kind), path) for kind, path in found)


def _kind(name: str) -> str:
    return name.rpartition(".")[2] if name.startswith("sentence_transformers.") else name


def trunk_directory(directory: Path, listed: tuple[ListedModule, ...]) -> Path:
    """Return where the model itself is: in the directory, or in one inside it, as older releases wrote it."""
    if listed and not (directory / "config.json").is_file():
        return directory / listed[0].path
    return directory


def module_files(directory: Path, listed: tuple[ListedModule, ...]) -> list[Path]:
    """List the files of a sentence-transformers directory beside those of the model."""
    trunk = trunk_directory(directory, listed)
    found = [*files_inside(directory, LIST_FILE), *files_inside(directory, SETTINGS_FILE)] if listed else []
    found += files_inside(trunk, TRUNK_SETTINGS) if listed else []
    for module in listed[1:]:
        if module.path:
            found += files_inside(directory / module.path, "*")
    return found


def read_sentence_modules(
    directory: Path, listed: tuple[ListedModule, ...], options: CheckpointOptions
) -> SentenceModules | None:
    """Read what follows the model, where that is part of what is exported.

    Args:
        directory: where `modules.json` is.
        listed: what it says.
        options: the task, where one is named.

    Returns:
        None where another task is named, or where the directory is one of another kind.

    Raises:
        UnsupportedError: the task is named and there are no modules; or one of them isn't known here.
        CorruptCheckpointError: settings of one are malformed.
        CheckpointNotFoundError: settings or weights of one are missing.
    """
    is_named = options.task is not None and canonical_task(options.task).name == SENTENCE_SIMILARITY
    if is_named and not listed:
        raise UnsupportedError(
            f"{directory} has no {LIST_FILE}, which says how an embedding is made of a model's states (pooling, "
            "normalisation); give a directory that sentence-transformers saved, or --task feature-extraction for the "
            "states alone"
        )
    if not is_named and (
        options.task is not None or options.split_encoders or not listed or _is_of_another_kind(directory)
    ):
        return None
    unknown = [module.kind for module in listed[1:] if module.kind not in _READERS]
    if listed[0].kind != "Transformer":
        unknown.insert(0, listed[0].kind)
    if unknown:
        raise UnsupportedError(
            f"{directory / LIST_FILE} lists {', '.join(unknown)}, and only a Transformer, then Pooling, Dense and "
            "Normalize are known here; --task feature-extraction exports the model without what follows it"
        )
    _check_order(directory, listed)
    _check_trunk(directory, listed)
    modules: list[SentenceModule] = []
    weights: dict[str, Path] = {}
    for index, module in enumerate(listed[1:]):
        place = directory / module.path
        modules.append(_READERS[module.kind](place))
        if module.kind == "Dense":
            weights[prefix_of(index)] = _weights_in(place)
    return SentenceModules(tuple(modules), weights)


def _is_of_another_kind(directory: Path) -> bool:
    """Say whether a directory says of itself that it scores pairs of texts, which needs no embedding."""
    file = directory / SETTINGS_FILE
    settings = read_json_object(file, purpose="the settings of sentence-transformers") if file.is_file() else {}
    return settings.get("model_type") == "CrossEncoder"


def _check_order(directory: Path, listed: tuple[ListedModule, ...]) -> None:
    kinds = [module.kind for module in listed]
    if kinds.count("Pooling") != 1 or kinds[1] != "Pooling":
        raise UnsupportedError(
            f"{directory / LIST_FILE} lists {', '.join(kinds)}: the second must be the only Pooling; "
            "--task feature-extraction exports the model without what follows it"
        )


def _check_trunk(directory: Path, listed: tuple[ListedModule, ...]) -> None:
    for file in files_inside(trunk_directory(directory, listed), TRUNK_SETTINGS):
        task = read_json_object(file, purpose="how the model reads texts").get("transformer_task", "feature-extraction")
        if task != "feature-extraction":
            raise UnsupportedError(
                f"{file}: the model is used for {task!r}, and embeddings are made of what a model gives for "
                "feature-extraction"
            )


def _settings(place: Path, *, required: bool = True) -> dict[str, Any]:
    file = place / "config.json"
    if not required and not file.is_file():
        return {}
    return read_json_object(file, purpose=f"the settings of the module {place.name}")


def _read_pooling(place: Path) -> Pooling:
    settings = _settings(place)
    named = settings.get("pooling_mode")
    if named is None:
        modes = tuple(mode for key, mode in _OLD_MODES.items() if settings.get(key)) or ("mean",)
    else:
        modes = tuple(named) if isinstance(named, list) else (named,)
    unknown = [mode for mode in modes if mode not in POOLING_MODES]
    if unknown or not modes:
        raise UnsupportedError(
            f"{place / 'config.json'}: the pooling {', '.join(map(repr, unknown)) or 'of no kind'} isn't known; known "
            f"are {', '.join(POOLING_MODES)}"
        )
    if settings.get("include_prompt", True) is False:
        raise UnsupportedError(
            f"{place / 'config.json'}: prompts are left out of the pooling (include_prompt is false), and a graph "
            "isn't told how long they are; --task feature-extraction exports the model alone"
        )
    return Pooling(modes)


def _read_dense(place: Path) -> Dense:
    settings, file = _settings(place), place / "config.json"
    _check_names(settings, file)
    sizes = [settings.get("in_features"), settings.get("out_features")]
    if not all(type(size) is int and size > 0 for size in sizes):
        raise CorruptCheckpointError(f"{file}: in_features and out_features are {sizes}, not two sizes; correct them")
    named = str(settings.get("activation_function") or "torch.nn.modules.activation.Tanh")
    activation = named.rpartition(".")[2]
    if not named.startswith("torch.nn.modules.") or activation not in _WITHOUT_ARGUMENTS:
        raise UnsupportedError(
            f"{file}: the activation {named!r} isn't known; of torch.nn.modules, these are: "
            f"{', '.join(_WITHOUT_ARGUMENTS)}"
        )
    bias, residual = settings.get("bias", True), settings.get("use_residual", False)
    return Dense(int(sizes[0]), int(sizes[1]), bool(bias), activation, bool(residual))  # type: ignore[arg-type]


def _read_normalize(place: Path) -> Normalize:
    _check_names(_settings(place, required=False), place / "config.json")
    return Normalize()


def _check_names(settings: Mapping[str, Any], file: Path) -> None:
    for key in ("module_input_name", "module_output_name"):
        if settings.get(key) not in (None, _EMBEDDING):
            raise UnsupportedError(f"{file}: {key} is {settings[key]!r}, and only {_EMBEDDING!r} is known here")


_READERS: dict[str, Callable[[Path], SentenceModule]] = {
    "Pooling": _read_pooling,
    "Dense": _read_dense,
    "Normalize": _read_normalize,
}


def _weights_in(place: Path) -> Path:
    file = next((place / name for name in ("model.safetensors", "pytorch_model.bin") if (place / name).is_file()), None)
    if file is None:
        raise CheckpointNotFoundError(
            f"{place} has neither model.safetensors nor pytorch_model.bin, the weights of the module; download them too"
        )
    inside(place, file)
    if file.suffix == ".safetensors":
        read_header(file)
    else:
        check_pickled(file)
    return file
