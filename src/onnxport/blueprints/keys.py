"""Compute the cache keys of blueprints, from everything that a blueprint depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
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
"""Packages whose version affects a graph."""

_IGNORED = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
"""Settings of a configuration that don't affect a graph: its origin, and the dtype of the weights."""
_IGNORED_OF_ADAPTERS = (
    "base_model_name_or_path",
    "revision",
    "peft_version",
    "inference_mode",
    "target_modules",
    "auto_mapping",
)
"""Settings of an adapter that describe its origin, or follow from the names of its tensors."""
_GRAPH_OPTIONS = (
    "task",
    "past",
    "last_logits",
    "split_encoders",
    "inputs_embeds",
    "outputs",
    "fix",
    "opset",
    "dtype",
    "framework",
    "stamping",
)
_PREPROCESSOR_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
    "processor_config.json",
)
"""Files that determine which inputs the preprocessor returns; the vocabulary only affects the token ids."""


def export_key(checkpoint: Checkpoint, inventory: Inventory, options: ExportOptions) -> str | None:
    """Return the key of an export: a digest of the configuration, the tensors' names and shapes, options and versions.

    Returns:
        The key, computed without importing torch or transformers; None if the checkpoint's code is run, which no key
        covers.
    """
    if "auto_map" in checkpoint.config and options.trust_remote_code:
        return None
    adapter_config = checkpoint.adapter.config if checkpoint.adapter else {}
    adapter = {name: value for name, value in adapter_config.items() if name not in _IGNORED_OF_ADAPTERS}
    tensors = {key: [stored.dtype.name, list(stored.shape)] for key, stored in inventory.tensors.items()}
    return _digest("export", _without_ignored(checkpoint.config), tensors, adapter, _environment(checkpoint, options))


def trace_key(checkpoint: Checkpoint, drafted: Draft, options: ExportOptions) -> str | None:
    """Return the key of the traced graphs, which depends on the model with few layers, not on the full depth."""
    if "auto_map" in checkpoint.config and options.trust_remote_code:
        return None
    model = drafted.reduction.model
    removed = [name for name, module in model.named_modules() for child in module._modules.values() if child is None]
    state = {name: [str(tensor.dtype), list(tensor.shape)] for name, tensor in model.state_dict(keep_vars=True).items()}
    shared: dict[int, list[str]] = {}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        shared.setdefault(id(tensor), []).append(name)
    tied = [names for names in shared.values() if len(names) > 1]
    subject = {"class": type(model).__qualname__, "task": drafted.subject.task.full_name}
    return _digest(
        "trace",
        _without_ignored(model.config.to_dict()),
        removed,
        state,
        tied,
        subject,
        _environment(checkpoint, options),
    )


def _environment(checkpoint: Checkpoint, options: ExportOptions) -> dict[str, Any]:
    directory = checkpoint.preprocessor_directory
    return {
        "options": {name: getattr(options, name) for name in _GRAPH_OPTIONS},
        "versions": {name: metadata.version(name) for name in PACKAGES} | added_versions(),
        "code": _code_digest(),
        "preprocessor": {name: _file_digest(directory / name) for name in _PREPROCESSOR_FILES},
        "sentence": repr(checkpoint.sentence.model) if checkpoint.sentence else None,
        "tokenizer": sorted(path.name for path in directory.glob("*token*")),
    }


@cache
def _code_digest() -> str:
    """Return the digest of this package's code, which changes between commits of one version."""
    package = Path(__file__).parents[1]
    digests = {str(path.relative_to(package)): _file_digest(path) for path in package.rglob("*.py")}
    return _digest(digests)


def _file_digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _without_ignored(config: Any) -> Any:
    if isinstance(config, Mapping):
        return {key: _without_ignored(value) for key, value in config.items() if key not in _IGNORED}
    return config


def _digest(*parts: Any) -> str:
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
