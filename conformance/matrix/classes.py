"""Export one class of Transformers as its checkpoint names it: no task, no preprocessor, the whole interface."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import shutil
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from conformance.exports import FAILED, command
from conformance.matrix.exports import commit, failure_of, success_of
from conformance.matrix.shrink import tiny_config, tiny_of
from conformance.matrix.tiny import random_model
from conformance.matrix.use import use
from onnxport.architectures.classes import class_named, infer_task
from onnxport.description.forward import NOT_DESCRIBED

_WINDOWS = ("sliding_window", "attention_chunk_size")
"""Fields with a number of tokens beyond which attention changes."""
_WINDOW = 16
"""Their value: generated texts go beyond it."""


@cache
def classes() -> tuple[tuple[str, str], ...]:
    """Return (model type, class) of every model of Transformers that has a forward and a configuration."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    found: dict[str, str] = {}
    for module in _modeling_modules():
        for name, value in vars(module).items():
            is_model = inspect.isclass(value) and issubclass(value, transformers.PreTrainedModel)
            if not is_model or value.__module__ != module.__name__ or not hasattr(transformers, name):
                continue
            model_type = getattr(getattr(value, "config_class", None), "model_type", "")
            if model_type in CONFIG_MAPPING and value.forward.__name__ != "_forward_unimplemented":
                found.setdefault(name, model_type)
    return tuple((model_type, name) for name, model_type in found.items() if not name.endswith("PreTrainedModel"))


def _modeling_modules() -> Iterator[Any]:
    import transformers.models

    for package in pkgutil.iter_modules(transformers.models.__path__, "transformers.models."):
        directory = Path(importlib.import_module(package.name).__file__ or "").parent
        for file in sorted(directory.glob("modeling_*.py")):
            try:
                yield importlib.import_module(f"{package.name}.{file.stem}")
            except ImportError:  # a package that isn't installed
                continue


def run_class(model_type: str, class_name: str, directory: Path) -> dict[str, Any]:
    """Make the checkpoint of a class, export it, and use the export with inputs that the manifest describes.

    Args:
        model_type: as in `config.json`.
        class_name: the class, as `architectures` names it.
        directory: directory of checkpoints and outputs, which are removed again.

    Returns:
        As `run_matrix_pair`, with `task`, `open` (parameters that no rule leaves out), `used` (whether outputs of
        `onnxport.load` were compared) and `generated` (whether tokens of its `generate` were). A class with open
        parameters fails with the category `interface`, one whose export gives other numbers or tokens with `use`.
    """
    start = time.perf_counter()
    checkpoint, output = (directory / kind / class_name for kind in ("checkpoints", "outputs"))
    for path in (checkpoint, output):
        shutil.rmtree(path, ignore_errors=True)
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        try:
            model = save_class(model_type, class_name, checkpoint)
        except Exception as error:  # configurations and models raise any exception
            text = " ".join(str(error).split())
            found = {"status": FAILED, "category": "make", "message": f"{type(error).__name__}: {text}"[:300]}
        else:
            found = _export(model, checkpoint, output)
    finally:
        for path in (checkpoint, output):
            shutil.rmtree(path, ignore_errors=True)
    return {**found, "commit": commit(), "seconds": round(time.perf_counter() - start, 1)}


def save_class(model_type: str, class_name: str, directory: Path) -> Any:
    """Write the tiny checkpoint of a class, and return its model as Transformers loads it.

    Args:
        model_type: as in `config.json`.
        class_name: the class, as `architectures` names it.
        directory: the checkpoint's directory.
    """
    config = tiny_config(model_type)
    config.architectures = [class_name]
    config = tiny_config(model_type, infer_task(config).name)
    _shorten_windows(config)
    model, _ = random_model(class_named(class_name, model_type), config)
    for name, scale in tiny_of(model_type).scales.items():
        if name in dict(model.named_parameters()):
            model.get_parameter(name).data.mul_(scale)
    model.save_pretrained(directory, save_original_format=class_name not in tiny_of(model_type).original_names)
    return type(model).from_pretrained(directory).eval()  # Youtu's sets the padding token's embedding to zero


def _shorten_windows(config: Any) -> None:
    """Set the windows of a configuration and its sub-configurations to fewer tokens than `use` generates."""
    for name in _WINDOWS:
        value = vars(config).get(name)
        if isinstance(value, int) and value > _WINDOW and not getattr(config, "per_layer_config", None):
            setattr(config, name, _WINDOW)
    for name in type(config).sub_configs:
        if getattr(config, name, None) is not None:
            _shorten_windows(getattr(config, name))


def _export(model: Any, checkpoint: Path, output: Path) -> dict[str, Any]:
    code, text = command(["export", str(checkpoint), str(output), "--quiet", "--debug", "--no-cache"])
    if code != 0:
        return failure_of(text)
    manifest = json.loads((output / "onnxport.json").read_text())
    reasons = manifest["left_out"]
    facts = {"task": manifest["task"], "open": [name for name, reason in reasons.items() if reason == NOT_DESCRIBED]}
    found = {**success_of(manifest), **facts}
    if manifest["source"]["architecture"] != type(model).__name__:
        message = f"exported as {manifest['source']['architecture']}"
        return {**found, "status": FAILED, "category": "interface", "message": message}
    if facts["open"]:
        message = f"not inputs: {', '.join(facts['open'])}"
        return {**found, "status": FAILED, "category": "interface", "message": message}
    used = use(model, checkpoint, output, manifest)
    if used.problem:
        return {**found, "status": FAILED, "category": "use", "message": used.problem[:300]}
    return {**found, "used": used.compared, "generated": used.generated}
