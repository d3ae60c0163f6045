"""Name a blueprint by everything that shapes it, so that what is found under the name is right."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxport.architectures._table import added_versions
from onnxport.checkpoint.checkpoint import Checkpoint
from onnxport.checkpoint.reading import Inventory
from onnxport.options import ExportOptions

if TYPE_CHECKING:
    from onnxport.blueprints.draft import Draft

PACKAGES = ("onnxport", "torch", "transformers", "onnx", "onnx-ir", "onnxscript")
"""Packages that a graph can differ with."""

_NOISE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
"""Settings of a configuration that say where it comes from."""
_ADAPTER_NOISE = (
    "base_model_name_or_path",
    "revision",
    "peft_version",
    "inference_mode",
    "target_modules",
    "auto_mapping",
)
"""Settings of an adapter that say where it comes from, or that its tensors' names say too."""
_SHAPING_OPTIONS = ("task", "past", "last_logits", "split_encoders", "opset", "dtype", "framework", "stamping")
_PREPROCESSOR_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
    "processor_config.json",
)
"""Files that decide which inputs an example has; the vocabulary decides only which numbers are in it."""


def export_key(checkpoint: Checkpoint, inventory: Inventory, options: ExportOptions) -> str | None:
    """Name a whole export: the configuration, the tensors' names and shapes, the options, the versions.

    Returns:
        A key that costs no import of torch or transformers; None where code of the checkpoint takes part, which no key
        describes.
    """
    if "auto_map" in checkpoint.config and options.trust_remote_code:
        return None
    merged = checkpoint.adapter.config if checkpoint.adapter else {}
    adapter = {name: value for name, value in merged.items() if name not in _ADAPTER_NOISE}
    tensors = {key: [stored.dtype.name, list(stored.shape)] for key, stored in inventory.tensors.items()}
    return _digest("export", _without_noise(checkpoint.config), tensors, adapter, _circumstances(checkpoint, options))


def trace_key(checkpoint: Checkpoint, drafted: Draft, options: ExportOptions) -> str | None:
    """Name what is traced: the configuration of the model with few layers, whatever the depth of the full one."""
    if "auto_map" in checkpoint.config and options.trust_remote_code:
        return None
    model = drafted.reduction.model
    left_out = [name for name, module in model.named_modules() for child in module._modules.values() if child is None]
    state = {name: [str(tensor.dtype), list(tensor.shape)] for name, tensor in model.state_dict(keep_vars=True).items()}
    shared: dict[int, list[str]] = {}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        shared.setdefault(id(tensor), []).append(name)
    tied = [names for names in shared.values() if len(names) > 1]
    subject = {"class": type(model).__qualname__, "task": drafted.subject.task.full_name}
    return _digest(
        "trace",
        _without_noise(model.config.to_dict()),
        left_out,
        state,
        tied,
        subject,
        _circumstances(checkpoint, options),
    )


def _circumstances(checkpoint: Checkpoint, options: ExportOptions) -> dict[str, Any]:
    directory = checkpoint.preprocessor_directory
    return {
        "options": {name: getattr(options, name) for name in _SHAPING_OPTIONS},
        "versions": {name: metadata.version(name) for name in PACKAGES} | added_versions(),
        "preprocessor": {name: _content(directory / name) for name in _PREPROCESSOR_FILES},
        "sentence": repr(checkpoint.sentence.modules) if checkpoint.sentence else None,
        "tokenizer": sorted(path.name for path in directory.glob("*token*")),
    }


def _content(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _without_noise(config: Any) -> Any:
    if isinstance(config, Mapping):
        return {key: _without_noise(value) for key, value in config.items() if key not in _NOISE}
    return config


def _digest(*parts: Any) -> str:
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
