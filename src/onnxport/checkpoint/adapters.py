"""Read a PEFT adapter: its settings, what each asks of a merge, and the names of its tensors. No tensor is read.

Only what can be said to have no effect on the merged weights is passed over; everything else is used, or refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnxport.checkpoint.json_files import read_json_object
from onnxport.checkpoint.reading import Inventory, take_inventory
from onnxport.checkpoint.safetensors import read_header
from onnxport.containment import check_links
from onnxport.errors import CheckpointNotFoundError, CorruptCheckpointError, UnsupportedError

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
KEY_PREFIX = "adapter:"
"""Put before the names of an adapter's tensors, where they are listed with its base's."""

TASKS: Mapping[str, str] = {
    "SEQ_CLS": "text-classification",
    "TOKEN_CLS": "token-classification",
    "QUESTION_ANS": "question-answering",
    "FEATURE_EXTRACTION": "feature-extraction",
}
"""PEFT's `task_type` → task, where the base's own class says nothing about it."""

_USED = frozenset(
    {"r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "modules_to_save", "task_type",
     "base_model_name_or_path", "revision", "peft_type", "bias", "init_lora_weights", "layers_to_transform"}
)  # fmt: skip
_WITHOUT_EFFECT = frozenset(
    {"auto_mapping", "peft_version", "inference_mode", "target_modules", "exclude_modules", "lora_dropout",
     "fan_in_fan_out", "layers_pattern", "megatron_core", "loftq_config", "eva_config", "corda_config",
     "lora_ga_config", "qalora_group_size", "runtime_config", "ensure_weight_tying"}
)  # fmt: skip
"""Settings of training, or that the tensors' names and the modules' classes say better."""
_INITIAL_VALUES = (True, False, None, "gaussian", "orthogonal", "eva")
"""Ways to begin the training that leave the base's weights as they are."""
_BIAS = ("none", "all", "lora_only")
_PARTS = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(\.default)?(\.weight)?"
)
_OUTER = "base_model.model."
_INNER = re.compile(r"\.(modules_to_save(\.default)?|base_layer)(?=\.)")


@dataclass(frozen=True)
class Factors:
    """Name the tensors that change one module's weight.

    Attributes:
        up: key of the matrix `[out, rank]`, which PEFT calls B.
        down: key of the matrix `[rank, in]`, which PEFT calls A.
        lengths: key of DoRA's vector `[out]`; None without.
    """

    up: str
    down: str
    lengths: str | None = None


@dataclass(frozen=True)
class Adapter:
    """Describe an adapter that passed every check that needs neither a tensor nor its base.

    Attributes:
        name: as the user gave it.
        directory: where its files are.
        revision: commit of the snapshot; None for a local directory.
        config: content of `adapter_config.json`.
        shapes: key → shape of each tensor.
        factors: path of a module → the tensors that change its weight.
        whole: name of a parameter → key of the tensor that replaces it.
        base: what the adapter's base is called, for the manifest.
    """

    name: str
    directory: Path
    revision: str | None
    config: Mapping[str, Any] = field(repr=False)
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)
    factors: Mapping[str, Factors] = field(repr=False)
    whole: Mapping[str, str] = field(repr=False)
    base: str = ""

    @property
    def file(self) -> Path:
        """The file with its tensors."""
        return self.directory / WEIGHTS_NAME

    @property
    def task(self) -> str | None:
        """The task that it was trained for, where it says one that its base can't."""
        return TASKS.get(str(self.config.get("task_type")))

    def rank_of(self, module: str) -> int:
        """Return the rank that the settings state for a module."""
        return int(_by_pattern(self.config.get("rank_pattern"), module, self.config["r"]))

    def scale_of(self, module: str) -> float:
        """Return what a module's product is multiplied by: `alpha / r`, or `alpha / sqrt(r)`.

        The second is rsLoRA (Kalajdzievski, 2023, arXiv:2312.03732).
        """
        rank = self.rank_of(module)
        alpha = float(_by_pattern(self.config.get("alpha_pattern"), module, self.config["lora_alpha"]))
        return alpha / math.sqrt(rank) if self.config.get("use_rslora") else alpha / rank

    def saves(self, parameter: str) -> bool:
        """Tell whether a parameter is one of a module of `modules_to_save`, which PEFT makes a copy of."""
        names = self.config.get("modules_to_save") or ()
        return any(f".{name}." in f".{parameter}" for name in names)


def is_adapter(directory: Path) -> bool:
    """Tell whether a directory holds an adapter's settings."""
    return (directory / CONFIG_NAME).is_file()


def open_adapter(name: str, directory: Path, revision: str | None = None) -> Adapter:
    """Open an adapter; headers and settings are read, no tensor is.

    Args:
        name: as the user gave it.
        directory: where its files are.
        revision: commit, where it is a snapshot of the hub.

    Raises:
        CheckpointNotFoundError: a file isn't there.
        CorruptCheckpointError: a file is damaged, or its settings and tensors contradict each other.
        UnsupportedError: it isn't LoRA, or has a setting whose effect isn't merged here.
    """
    if not is_adapter(directory):
        raise CheckpointNotFoundError(
            f"{name} has no {CONFIG_NAME}, so it isn't a PEFT adapter; give the directory that "
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
    adapter = Adapter(name, directory, revision, config, shapes, *_sorted_out(file, shapes))
    for module, factors in adapter.factors.items():
        _check_factors(adapter, module, factors)
    return adapter


def base_of(adapter: Adapter) -> str | Path:
    """Return where an adapter's base is: a path, or a repository of the hub.

    A relative path is looked for in the adapter's directory, then where the process runs, as PEFT does.

    Raises:
        CheckpointNotFoundError: the settings don't name it.
    """
    named = adapter.config.get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise CheckpointNotFoundError(
            f"{adapter.directory / CONFIG_NAME} doesn't name its base (base_model_name_or_path is {named!r}); "
            f"give the base as MODEL, and --adapter {adapter.name}"
        )
    beside = adapter.directory / Path(named).expanduser()
    return beside if beside.is_dir() else named


def inventory_with(adapter: Adapter | None, base: Inventory) -> Inventory:
    """Add the tensors of an adapter, whose keys begin with `KEY_PREFIX`, to those of its base.

    Args:
        adapter: None where there is none.
        base: tensors of its base.

    Raises:
        CorruptCheckpointError: a file is damaged.
        KeyError: a tensor has a type that ONNX doesn't have, which is the key.
    """
    if adapter is None:
        return base
    own = take_inventory(adapter.directory, [adapter.file])
    place = str(adapter.file.absolute())
    tensors = {
        KEY_PREFIX + key: replace(stored, file=place, key=KEY_PREFIX + key) for key, stored in own.tensors.items()
    }
    return Inventory({**base.tensors, **tensors}, {**base.files, place: own.files[adapter.file.name]})


def _check_settings(path: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise UnsupportedError(
            f"{path}: peft_type is {kind!r}, and only LORA is merged here; if PEFT can merge it, do that with "
            "`merge_and_unload()`, save the model, and export that"
        )
    for name in ("r", "lora_alpha"):
        value = config.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise CorruptCheckpointError(f"{path}: {name} is {value!r}, not a number above zero; correct it")
    for name in ("rank_pattern", "alpha_pattern"):
        _check_pattern(path, name, config.get(name))
    if config.get("bias", "none") not in _BIAS:
        raise CorruptCheckpointError(f"{path}: bias is {config['bias']!r}, not one of {', '.join(_BIAS)}; correct it")
    start = config.get("init_lora_weights")
    if start not in _INITIAL_VALUES:
        raise _unsupported(path, "init_lora_weights", start, "training with it changes the base's weights too")
    for name, value in config.items():
        if value and name not in _USED | _WITHOUT_EFFECT:
            raise _unsupported(path, name, value, "what it does to the weights isn't known here")


def _unsupported(path: Path, name: str, value: Any, reason: str) -> UnsupportedError:
    return UnsupportedError(
        f"{path}: {name} is {str(value)[:80]}, which isn't merged here ({reason}); merge the adapter with PEFT's "
        "`merge_and_unload()`, save the model, and export that"
    )


def _check_pattern(path: Path, name: str, value: Any) -> None:
    for pattern, number in (value or {}).items() if isinstance(value or {}, Mapping) else [(value, None)]:
        try:
            re.compile(str(pattern))
            fits = isinstance(number, int | float) and not isinstance(number, bool) and number > 0
        except re.error:
            fits = False
        if not fits:
            raise CorruptCheckpointError(
                f"{path}: {name} has {pattern!r}: {number!r}, not a pattern of module names and a number above zero; "
                "correct it"
            )


def _by_pattern(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """Return the value of the first pattern that fits a module's whole name, or its last parts."""
    for pattern, value in (patterns or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return value
    return default


def _sorted_out(file: Path, shapes: Mapping[str, Any]) -> tuple[dict[str, Factors], dict[str, str]]:
    """Return which tensors change a module's weight, and which replace a parameter.

    Raises:
        CorruptCheckpointError: there are none, or only one of two factors.
    """
    parts: dict[str, dict[str, str]] = {}
    whole: dict[str, str] = {}
    for key in shapes:
        name = _INNER.sub("", key.removeprefix(_OUTER))
        if found := _PARTS.fullmatch(name):
            parts.setdefault(found["module"], {})[found["part"].replace("embedding_", "")] = key
        elif ".original_module." not in name:  # the base's own, saved with all biases; its copy is what is used
            whole[name] = key
    factors = {}
    for module, held in parts.items():
        if not {"lora_A", "lora_B"} <= held.keys():
            raise CorruptCheckpointError(
                f"{file}: {module} has {', '.join(sorted(held))}, and needs lora_A and lora_B; save the adapter again"
            )
        factors[module] = Factors(held["lora_B"], held["lora_A"], held.get("lora_magnitude_vector"))
    if not shapes:
        raise CorruptCheckpointError(f"{file} holds no tensors; save the adapter again")
    return factors, whole


def _check_factors(adapter: Adapter, module: str, factors: Factors) -> None:
    up, down = adapter.shapes[factors.up], adapter.shapes[factors.down]
    if len(up) < 2 or len(down) < 2 or up[1] != down[0] or math.prod(up[2:]) != 1:
        raise CorruptCheckpointError(
            f"{adapter.file}: the factors of {module} are {list(up)} and {list(down)}, which can't be multiplied; "
            "save the adapter again"
        )
    if down[0] != adapter.rank_of(module):
        raise CorruptCheckpointError(
            f"{adapter.file}: the rank of {module} is {down[0]}, and {CONFIG_NAME} says {adapter.rank_of(module)} "
            "(r, rank_pattern), which decides the scale; correct it"
        )
    if bool(adapter.config.get("use_dora")) != (factors.lengths is not None):
        raise CorruptCheckpointError(
            f"{adapter.file}: {module} has {'a' if factors.lengths else 'no'} lora_magnitude_vector, and "
            f"{CONFIG_NAME} says use_dora: {adapter.config.get('use_dora')!r}; correct it"
        )
    layers = adapter.config.get("layers_to_transform")
    wanted = [layers] if isinstance(layers, int) else layers
    numbers = [int(part) for part in module.split(".") if part.isdigit()]
    if wanted is not None and not any(number in wanted for number in numbers):
        raise CorruptCheckpointError(
            f"{adapter.file} has tensors of {module}, and layers_to_transform of {CONFIG_NAME} is {layers}: PEFT "
            "wouldn't use them; correct it, or save the adapter again"
        )
