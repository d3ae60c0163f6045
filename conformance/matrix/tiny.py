"""Write the tiny seeded checkpoint of a pair."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import warnings
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, cast

from filelock import FileLock

from conformance.checkpoints import randomize
from conformance.matrix.eager import eager_failure
from conformance.matrix.pairs import classes, model_class
from conformance.matrix.shrink import tiny_config, tiny_of
from conformance.matrix.sides import save_preprocessors
from onnxport.architectures._table import MODULES
from onnxport.architectures.classes import generation_class
from onnxport.description.tasks import PAST_SUFFIX, canonical_task
from onnxport.loading.load import config_for

MOST_PARAMETERS = 20_000_000
_MARKER = "conformance.json"


class NoCheckpointError(Exception):
    """A pair has no tiny checkpoint; the message has the reason."""


def checkpoint_of(model_type: str, task: str, directory: Path) -> tuple[Path, dict[str, Any]]:
    """Write the checkpoint of a pair, unless it exists and the rules haven't changed since.

    Args:
        model_type: as in `config.json`.
        task: a task; a task with and without past has one checkpoint.
        directory: directory of all checkpoints, with one subdirectory for each.

    Returns:
        The checkpoint's directory, and `parameters`, `repeated` (isomorphic layers) and `eager_failure` (the error of
        an encoder) of its model.

    Raises:
        NoCheckpointError: there is no tiny configuration, or a package is missing.
    """
    task = task.removesuffix(PAST_SUFFIX)
    target = directory / f"{model_type}-{task}"
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):  # another worker may export it with or without past
        return target, _facts(model_type, task, target)


def _facts(model_type: str, task: str, target: Path) -> dict[str, Any]:
    """Return the facts of a checkpoint, which is written unless it is up to date."""
    marker = target / _MARKER
    if marker.is_file() and (facts := json.loads(marker.read_text())).get("rules") == _rules():
        return cast("dict[str, Any]", facts)
    shutil.rmtree(target, ignore_errors=True)
    try:
        with warnings.catch_warnings(action="ignore"):  # about sizes of tiny models, such as empty mel filters
            facts = _write(model_type, task, target)
    except Exception as error:  # configurations and models raise any exception
        shutil.rmtree(target, ignore_errors=True)
        lines = [line for line in str(error).splitlines() if line.strip()] or [""]
        raise NoCheckpointError(f"{type(error).__name__}: {' '.join(lines)}"[:300]) from error
    marker.write_text(json.dumps(facts))
    return facts


def random_model(class_of_model: Any, config: Any) -> tuple[Any, int]:
    """Return a model with random weights, and its number of parameters.

    Raises:
        ValueError: it has too many.
    """
    import torch

    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in class_of_model(copy.deepcopy(config)).parameters())
    if size > MOST_PARAMETERS:
        raise ValueError(f"{class_of_model.__name__} still has {size / 1e6:.0f} million parameters")
    torch.manual_seed(0)
    model = class_of_model(config)
    randomize(model)
    return model, size


def _write(model_type: str, task: str, target: Path) -> dict[str, Any]:
    config = tiny_config(model_type, task)
    saved_class = model_class(model_type, task)
    tiny = tiny_of(model_type)
    if task in tiny.separate_tasks:
        config = config_for(saved_class, config)
    else:
        saved_class = _checkpoint_class(model_type, task, type(config))
    model, size = random_model(saved_class, config)
    for name, scale in tiny.scales.items():
        if name in dict(model.named_parameters()):
            model.get_parameter(name).data.mul_(scale)
    model.save_pretrained(target, save_original_format=saved_class.__name__ not in tiny.original_names)
    save_preprocessors(generation_class(saved_class), model.config, target)
    facts = {"model_type": model_type, "task": task, "parameters": size, "repeated": repeated_layers(model)}
    return {**facts, "eager_failure": eager_failure(model.eval(), target), "rules": _rules()}


@cache
def _rules() -> str:
    """Return a digest of the code and the records that determine the checkpoints."""
    directory = Path(__file__).parent
    files = (directory / name for name in ("shrink.py", "sides.py", "eager.py", "tiny.py"))
    records = repr([tiny_of(model_type) for model_type in sorted(MODULES)]).encode()
    return hashlib.sha256(b"".join([*(file.read_bytes() for file in files), records])).hexdigest()[:16]


def _checkpoint_class(model_type: str, task: str, config_class: Any) -> Any:
    """Return the class whose weights the checkpoint has: the pair's class, unless that is a submodel.

    A multimodal checkpoint may be loaded as a text-only model; the checkpoint has the whole model.
    """
    task_class = model_class(model_type, task)
    multimodal_tasks = ("image-to-text", "audio-text-to-text", "text-to-audio")
    if task in multimodal_tasks or issubclass(config_class, task_class.config_class or config_class):
        return task_class
    for other in multimodal_tasks:
        if model_type in classes(canonical_task(other)):
            return model_class(model_type, other)
    return task_class


def repeated_layers(model: Any) -> int:
    """Return the largest number of layers in one list with the same class, layer type and parameter shapes.

    Layer types are the lists of strings in the configuration of the module that has the list.
    """
    from torch import nn

    most = 0
    for owner in model.modules():
        candidates = [value for value in _config_values(owner) if isinstance(value, list)]
        for layers in (child for child in owner.children() if isinstance(child, nn.ModuleList | nn.Sequential)):
            lists = [names for names in candidates if names and len(names) == len(layers) and isinstance(names[0], str)]
            layer_types = zip(*lists, strict=True) if lists else [()] * len(layers)
            repeated = Counter(
                (*_class_and_shapes(layer), layer_type)
                for layer, layer_type in zip(layers, layer_types, strict=True)
                if layer is not None and _class_and_shapes(layer)[1]  # Informer's last layer has no convolution
            )
            most = max([most, *repeated.values()])
    return most


def _config_values(module: Any) -> list[Any]:
    """Return the values of a module's configuration, or of its own attributes if it has none."""
    config = getattr(module, "config", module)
    return list(vars(config if hasattr(config, "__dict__") else module).values())


def _class_and_shapes(layer: Any) -> tuple[Any, tuple[tuple[str, tuple[int, ...]], ...]]:
    """Return a layer's class, and the names and shapes of its parameters."""
    return type(layer), tuple((name, tuple(value.shape)) for name, value in layer.named_parameters())
