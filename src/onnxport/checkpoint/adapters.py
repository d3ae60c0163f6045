"""Read the configuration and tensor headers of a PEFT adapter, but not its tensor data.

Settings known to have no effect on merged weights are ignored. Every other setting is either applied or rejected.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnxport.checkpoint.json_files import read_json_object
from onnxport.checkpoint.patterns import compile_pattern
from onnxport.checkpoint.reading import Inventory, list_tensors
from onnxport.checkpoint.safetensors import read_header
from onnxport.containment import check_links
from onnxport.errors import CheckpointNotFoundError, CorruptCheckpointError, UnsupportedError, brief

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
KEY_PREFIX = "adapter:"
"""Prefix of an adapter's tensor names in an inventory that also lists the base model's tensors."""

TASKS: Mapping[str, str] = {
    "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
    "FEATURE_EXTRACTION": "feature-extraction",
}
"""PEFT `task_type` to task, for the types that the base model's class doesn't determine."""

_USED = frozenset(
    {"r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "modules_to_save", "task_type",
     "base_model_name_or_path", "revision", "peft_type", "bias", "init_lora_weights", "layers_to_transform",
     "trainable_token_indices", "ensure_weight_tying"}
)  # fmt: skip
_WITHOUT_EFFECT = frozenset(
    {"auto_mapping", "peft_version", "inference_mode", "target_modules", "exclude_modules", "lora_dropout",
     "fan_in_fan_out", "layers_pattern", "megatron_core", "loftq_config", "eva_config", "corda_config",
     "lora_ga_config", "qalora_group_size", "runtime_config"}
)  # fmt: skip
"""Training settings, and settings that tensor names or module classes determine more reliably."""
_INITIAL_VALUES = (True, False, None, "gaussian", "orthogonal", "eva")
"""Initializations that leave the base model's weights unchanged."""
_BIAS = ("none", "all", "lora_only")
_PARTS = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(\.default)?(\.weight)?"
)
_TOKENS = re.compile(r"(?P<module>.+)\.token_adapter\.trainable_tokens_delta(\.default)?")
_OUTER = "base_model.model."
_PLAIN = re.compile(r"[\w.^$]*")
"""Patterns without repetitions and alternatives, such as names of modules, which `re` matches without backtracking."""
_MAX_PATTERNS = 256
_INNER = re.compile(r"\.(modules_to_save(\.default)?|(token_adapter\.)?base_layer)(?=\.)")


@dataclass(frozen=True)
class Factors:
    """Keys of the LoRA tensors of a module.

    Attributes:
        up: key of `lora_B`, shape `[out_features, rank]`.
        down: key of `lora_A`, shape `[rank, in_features]`.
        magnitude: key of DoRA's magnitude vector, shape `[out_features]`; None for LoRA without DoRA.
    """

    up: str
    down: str
    magnitude: str | None = None


@dataclass(frozen=True)
class TokenRows:
    """Trained rows of a table of token embeddings, which replace those of the base model.

    Attributes:
        key: key of the rows, shape `[number of tokens, hidden_size]`.
        indices: token id of each row.
    """

    key: str
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Adapter:
    """An adapter that passed all checks that require neither tensor data nor the base model.

    Attributes:
        name: path or repository id, as passed by the caller.
        directory: directory of its files.
        revision: commit of the snapshot; None for a local directory.
        config: contents of `adapter_config.json`.
        shapes: tensor shapes by key.
        factors: LoRA tensors by module path.
        replacements: keys of the tensors that replace parameters (`modules_to_save`, biases), by parameter name.
        tokens: trained rows of `trainable_token_indices`, by module path.
        base: path or repository id of the base model, for the manifest.
    """

    name: str
    directory: Path
    revision: str | None
    config: Mapping[str, Any] = field(repr=False)
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)
    factors: Mapping[str, Factors] = field(repr=False)
    replacements: Mapping[str, str] = field(repr=False)
    tokens: Mapping[str, TokenRows] = field(default_factory=dict, repr=False)
    base: str = ""

    @property
    def file(self) -> Path:
        """Path of the safetensors file."""
        return self.directory / WEIGHTS_NAME

    @property
    def task(self) -> str | None:
        """The task for `task_type` if the base model's class doesn't determine it; None otherwise."""
        return TASKS.get(str(self.config.get("task_type")))

    def rank_of(self, module: str) -> int:
        """Return the LoRA rank of a module, from `rank_pattern` or `r`."""
        return int(_by_pattern(self.config.get("rank_pattern"), module, self.config["r"]))

    def scale_of(self, module: str) -> float:
        """Return the scale of a module's update: `alpha / r`, or `alpha / sqrt(r)` with rsLoRA.

        rsLoRA: Kalajdzievski, 2023, arXiv:2312.03732.
        """
        rank = self.rank_of(module)
        alpha = float(_by_pattern(self.config.get("alpha_pattern"), module, self.config["lora_alpha"]))
        return alpha / math.sqrt(rank) if self.config.get("use_rslora") else alpha / rank

    @property
    def ensures_tying(self) -> bool:
        """Whether a change of one of two tied weights is one of both (`ensure_weight_tying`)."""
        return bool(self.config.get("ensure_weight_tying"))

    def replaces(self, parameter: str) -> bool:
        """Return whether a parameter belongs to a module in `modules_to_save`, of which PEFT trains a full copy."""
        names = self.config.get("modules_to_save") or ()
        return any(f".{name}." in f".{parameter}" for name in names)


def is_adapter(directory: Path) -> bool:
    """Return whether a directory has an `adapter_config.json`."""
    return (directory / CONFIG_NAME).is_file()


def open_adapter(name: str, directory: Path, revision: str | None = None) -> Adapter:
    """Open an adapter from its configuration and tensor headers, without reading tensor data.

    Args:
        name: path or repository id, for messages.
        directory: directory of its files.
        revision: commit of a hub snapshot; None for a local directory.

    Raises:
        CheckpointNotFoundError: a file is missing.
        CorruptCheckpointError: a file is damaged, or the configuration contradicts the tensors.
        UnsupportedError: the adapter isn't LoRA, or a setting can't be merged.
    """
    if not is_adapter(directory):
        raise CheckpointNotFoundError(
            f"{name} has no {CONFIG_NAME}, so it isn't a PEFT adapter; pass the directory that "
            "`PeftModel.save_pretrained(...)` wrote"
        )
    check_links(directory)
    config = read_json_object(directory / CONFIG_NAME, purpose="the adapter's settings")
    _check_settings(directory / CONFIG_NAME, config)
    file = directory / WEIGHTS_NAME
    if not file.is_file():
        pickled = " It has adapter_model.bin, a pickle:" if (directory / "adapter_model.bin").is_file() else ""
        raise CheckpointNotFoundError(
            f"{directory} has no {WEIGHTS_NAME}.{pickled} load the adapter with PEFT, and save it again as safetensors"
        )
    shapes = {key: entry.shape for key, entry in read_header(file).items()}
    if not shapes:
        raise CorruptCheckpointError(f"{file} has no tensors; save the adapter again")
    rows = {match["module"]: key for key in shapes if (match := _TOKENS.fullmatch(key.removeprefix(_OUTER)))}
    tokens = {module: TokenRows(key, _token_indices(file, config, module, shapes[key])) for module, key in rows.items()}
    if config.get("trainable_token_indices") and not rows:
        raise CorruptCheckpointError(
            f"{file} has no trained tokens, and {CONFIG_NAME} names some (trainable_token_indices); save the adapter "
            "again"
        )
    others = [key for key in shapes if key not in rows.values()]
    adapter = Adapter(name, directory, revision, config, shapes, *_classify_tensors(file, others), tokens)
    for module, factors in adapter.factors.items():
        _check_factors(adapter, module, factors)
    return adapter


def base_of(adapter: Adapter) -> str | Path:
    """Return the base model of an adapter, a local path or a Hub repository id.

    As in PEFT, a relative path is resolved against the adapter's directory first, then the working directory.

    Raises:
        CheckpointNotFoundError: the configuration doesn't name a base model.
    """
    named = adapter.config.get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise CheckpointNotFoundError(
            f"{adapter.directory / CONFIG_NAME} doesn't name its base model (base_model_name_or_path is {named!r}); "
            f"pass the base model as MODEL, and --adapter {adapter.name}"
        )
    relative = adapter.directory / Path(named).expanduser()
    return relative if relative.is_dir() else named


def inventory_with(adapter: Adapter | None, base: Inventory) -> Inventory:
    """Add the tensors of an adapter, with the prefix `KEY_PREFIX`, to those of its base model.

    Args:
        adapter: the adapter; None returns `base` unchanged.
        base: inventory of the base model.

    Raises:
        CorruptCheckpointError: a file is damaged.
        KeyError: a tensor has a dtype that ONNX doesn't define; the key is that dtype.
    """
    if adapter is None:
        return base
    inventory = list_tensors(adapter.directory, [adapter.file])
    file = str(adapter.file.absolute())
    tensors = {
        KEY_PREFIX + key: replace(stored, file=file, key=KEY_PREFIX + key) for key, stored in inventory.tensors.items()
    }
    return Inventory({**base.tensors, **tensors}, {**base.files, file: inventory.files[adapter.file.name]})


def _check_settings(path: Path, config: Mapping[str, Any]) -> None:
    peft_type = config.get("peft_type")
    if peft_type != "LORA":
        raise UnsupportedError(
            f"{path}: peft_type is {peft_type!r}, and only LORA can be merged; if PEFT can merge it, do that with "
            "`merge_and_unload()`, save the model, and export that"
        )
    for name in ("r", "lora_alpha"):
        value = config.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise CorruptCheckpointError(f"{path}: {name} is {value!r}, not a positive number; correct it")
    for name in ("rank_pattern", "alpha_pattern"):
        _check_pattern(path, name, config.get(name))
    if config.get("bias", "none") not in _BIAS:
        raise CorruptCheckpointError(f"{path}: bias is {config['bias']!r}, not one of {', '.join(_BIAS)}; correct it")
    initialization = config.get("init_lora_weights")
    if initialization not in _INITIAL_VALUES:
        reason = "this initialization modifies the base model's weights too"
        raise _unsupported(path, "init_lora_weights", initialization, reason)
    for name, value in config.items():
        if value and name not in _USED | _WITHOUT_EFFECT:
            raise _unsupported(path, name, value, "its effect on the weights is unknown")


def _unsupported(path: Path, name: str, value: object, reason: str) -> UnsupportedError:
    return UnsupportedError(
        f"{path}: {name} is {str(value)[:80]}, which can't be merged ({reason}); merge the adapter with PEFT's "
        "`merge_and_unload()`, save the model, and export that"
    )


def _check_pattern(path: Path, name: str, setting: object) -> None:
    patterns = setting or {}
    if isinstance(patterns, Mapping) and sum(not _PLAIN.fullmatch(str(key)) for key in patterns) > _MAX_PATTERNS:
        raise CorruptCheckpointError(f"{path}: {name} has more than {_MAX_PATTERNS} regular expressions; name modules")
    for pattern, value in patterns.items() if isinstance(patterns, Mapping) else [(setting, None)]:
        try:
            compile_pattern(str(pattern))
            is_valid, reason = isinstance(value, int | float) and not isinstance(value, bool) and value > 0, ""
        except ValueError as error:
            is_valid, reason = False, f" ({brief(str(error))})"
        if not is_valid:
            raise CorruptCheckpointError(
                f"{path}: {name} has {brief(pattern)}: {brief(value)}, not a regular expression of module names and a "
                f"positive number{reason}; correct it"
            )


def _by_pattern(patterns: Mapping[str, float] | None, module: str, default: float) -> float:
    """Return the value of the first pattern that matches a module's full path or its last components."""
    for pattern, value in (patterns or {}).items():
        if _matches(pattern, module):
            return value
    return default


def _matches(pattern: str, module: str) -> bool:
    expression = rf"(.*\.)?({pattern})"
    if _PLAIN.fullmatch(pattern):
        return re.fullmatch(expression, module) is not None
    return compile_pattern(expression).matches(module)


def _classify_tensors(file: Path, keys: Collection[str]) -> tuple[dict[str, Factors], dict[str, str]]:
    """Return the LoRA factors by module path, and the keys of the tensors that replace parameters by parameter name.

    Raises:
        CorruptCheckpointError: the file has only one of a module's two factors.
    """
    parts: dict[str, dict[str, str]] = {}
    replacements: dict[str, str] = {}
    for key in keys:
        name = _INNER.sub("", key.removeprefix(_OUTER))
        if match := _PARTS.fullmatch(name):
            parts.setdefault(match["module"], {})[match["part"].replace("embedding_", "")] = key
        elif ".original_module." not in name:  # with bias="all", PEFT also saves the base model's unused module
            replacements[name] = key
    factors = {}
    for module, keyed in parts.items():
        if not {"lora_A", "lora_B"} <= keyed.keys():
            raise CorruptCheckpointError(
                f"{file}: {module} has {', '.join(sorted(keyed))}, and needs lora_A and lora_B; save the adapter again"
            )
        factors[module] = Factors(keyed["lora_B"], keyed["lora_A"], keyed.get("lora_magnitude_vector"))
    return factors, replacements


def _token_indices(file: Path, config: Mapping[str, Any], module: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the token id of each row that was trained of a module.

    Raises:
        CorruptCheckpointError: the setting has none for the module, or not as many as there are rows.
    """
    setting = config.get("trainable_token_indices")
    if isinstance(setting, Mapping):
        named = [indices for name, indices in setting.items() if f".{module}".endswith(f".{name}")]
        # a layer that is tied to the only one named has the same rows
        setting = (named or list(setting.values()) if len(setting) == 1 else named or [None])[0]
    indices = setting if isinstance(setting, list) else []
    is_valid = all(type(index) is int and index >= 0 for index in indices)
    if not is_valid or len(shape) != 2 or len(set(indices)) != shape[0]:
        raise CorruptCheckpointError(
            f"{file}: {module} has trained tokens of the shape {list(shape)}, and trainable_token_indices in "
            f"{CONFIG_NAME} is {str(config.get('trainable_token_indices'))[:80]}, which must have one token id for "
            "each row; correct it"
        )
    return tuple(indices)


def _check_factors(adapter: Adapter, module: str, factors: Factors) -> None:
    up, down = adapter.shapes[factors.up], adapter.shapes[factors.down]
    if len(up) < 2 or len(down) < 2 or up[1] != down[0] or math.prod(up[2:]) != 1:
        raise CorruptCheckpointError(
            f"{adapter.file}: lora_B and lora_A of {module} are {list(up)} and {list(down)}, which can't be "
            "multiplied; save the adapter again"
        )
    if down[0] != adapter.rank_of(module):
        raise CorruptCheckpointError(
            f"{adapter.file}: the rank of {module} is {down[0]}, but {adapter.rank_of(module)} in {CONFIG_NAME} "
            "(r, rank_pattern), which determines the scale; correct it"
        )
    if bool(adapter.config.get("use_dora")) != (factors.magnitude is not None):
        raise CorruptCheckpointError(
            f"{adapter.file}: {module} has {'a' if factors.magnitude else 'no'} lora_magnitude_vector, but "
            f"use_dora is {adapter.config.get('use_dora')!r} in {CONFIG_NAME}; correct it"
        )
    layers = adapter.config.get("layers_to_transform")
    adapted = [layers] if isinstance(layers, int) else layers
    indices = [int(part) for part in module.split(".") if part.isdigit()]
    if adapted is not None and not any(index in adapted for index in indices):
        raise CorruptCheckpointError(
            f"{adapter.file} has tensors of {module}, but layers_to_transform is {layers} in {CONFIG_NAME}: PEFT "
            "wouldn't use them; correct it, or save the adapter again"
        )
