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
from typing import Any

from conformance.checkpoints import randomize
from conformance.matrix.eager import eager_failure
from conformance.matrix.pairs import classes, model_class
from conformance.matrix.shrink import tiny_config, tiny_of
from conformance.matrix.sides import save_sides
from onnxport.architectures._table import MODULES
from onnxport.architectures.describe import generation_class
from onnxport.description.tasks import PAST_SUFFIX, canonical_task
from onnxport.loading.load import config_for

MOST_PARAMETERS = 20_000_000
_MARKER = "conformance.json"


class NoCheckpointError(Exception):
    """Say why a pair has no tiny checkpoint."""


def checkpoint_of(model_type: str, task: str, directory: Path) -> tuple[Path, dict[str, Any]]:
    """Write the checkpoint of a pair; one that is already there is kept, unless the rules have changed since.

    Args:
        model_type: as in `config.json`.
        task: a task; with and without past share one checkpoint.
        directory: where checkpoints are kept, one directory each.

    Returns:
        The checkpoint's directory, and `parameters`, `repeated` (layers of one class) and `eager_failure` (how an
        encoder refuses its modality) of its model.

    Raises:
        NoCheckpointError: there is no small configuration, or a package is missing.
    """
    task = task.removesuffix(PAST_SUFFIX)
    target = directory / f"{model_type}-{task}"
    marker = target / _MARKER
    if marker.is_file() and (facts := json.loads(marker.read_text())).get("rules") == _rules():
        return target, facts
    shutil.rmtree(target, ignore_errors=True)
    try:
        with warnings.catch_warnings(action="ignore"):  # of sizes that only tiny models have, as empty mel filters
            facts = _write(model_type, task, target)
    except Exception as error:  # configurations and models raise whatever they like
        shutil.rmtree(target, ignore_errors=True)
        lines = [line for line in str(error).splitlines() if line.strip()] or [""]
        raise NoCheckpointError(f"{type(error).__name__}: {' '.join(lines)}"[:300]) from error
    marker.write_text(json.dumps(facts))
    return target, facts


def _write(model_type: str, task: str, target: Path) -> dict[str, Any]:
    import torch

    config = tiny_config(model_type, task)
    made_of = model_class(model_type, task)
    tiny = tiny_of(model_type)
    if task in tiny.separate_tasks:
        config = config_for(made_of, config)
    else:
        made_of = _whole_class(model_type, task, type(config))
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in made_of(copy.deepcopy(config)).parameters())
    if size > MOST_PARAMETERS:
        raise ValueError(f"{made_of.__name__} still has {size / 1e6:.0f} million parameters")
    torch.manual_seed(0)
    model = made_of(config)
    randomize(model)
    for name, scale in tiny.scales.items():
        model.get_parameter(name).data.mul_(scale)
    model.save_pretrained(target, save_original_format=made_of.__name__ not in tiny.original_names)
    save_sides(generation_class(made_of), model.config, target)
    facts = {"model_type": model_type, "task": task, "parameters": size, "repeated": repeated_layers(model)}
    return {**facts, "eager_failure": eager_failure(model.eval(), target), "rules": _rules()}


@cache
def _rules() -> str:
    """Return a digest of what checkpoints are made by."""
    here = Path(__file__).parent
    files = (here / name for name in ("shrink.py", "sides.py", "eager.py", "tiny.py"))
    records = repr([tiny_of(model_type) for model_type in sorted(MODULES)]).encode()
    return hashlib.sha256(b"".join([*(file.read_bytes() for file in files), records])).hexdigest()[:16]


def _whole_class(model_type: str, task: str, config_class: Any) -> Any:
    """Return the class whose weights the checkpoint has: that of the pair, unless it is only a part of the model.

    A checkpoint that reads pictures and texts may be loaded as a model of texts alone; it holds all of it.
    """
    made_of = model_class(model_type, task)
    whole = ("image-to-text", "audio-text-to-text", "text-to-audio")
    if task in whole or issubclass(config_class, made_of.config_class or config_class):
        return made_of
    for other in whole:
        if model_type in classes(canonical_task(other)):
            return model_class(model_type, other)
    return made_of


def repeated_layers(model: Any) -> int:
    """Return the largest number of layers in one list that are alike: in class, in kind, in the shapes they hold.

    Kinds are what the configuration beside the list says of each layer.
    """
    from torch import nn

    most = 0
    for owner in model.modules():
        said = [value for value in _said_by(owner) if isinstance(value, list)]
        for layers in (child for child in owner.children() if isinstance(child, nn.ModuleList | nn.Sequential)):
            lists = [names for names in said if names and len(names) == len(layers) and isinstance(names[0], str)]
            kinds = zip(*lists, strict=True) if lists else [()] * len(layers)
            repeated = Counter(
                (*_held(layer), kind) for layer, kind in zip(layers, kinds, strict=True) if _held(layer)[1]
            )
            most = max([most, *repeated.values()])
    return most


def _said_by(module: Any) -> list[Any]:
    """Return the values of a module's configuration; of its own where it has none."""
    config = getattr(module, "config", module)
    return list(vars(config if hasattr(config, "__dict__") else module).values())


def _held(layer: Any) -> tuple[Any, tuple[tuple[str, tuple[int, ...]], ...]]:
    """Return a layer's class, and the names and shapes of its parameters."""
    return type(layer), tuple((name, tuple(value.shape)) for name, value in layer.named_parameters())
