"""Convert a Transformers 4 TensorFlow checkpoint to the state dict of a PyTorch model, without TensorFlow.

Parameters without a tensor, and tensors without a parameter, are errors. Parameters that Transformers 5 renamed are
found with its conversion mapping.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.checkpoint.keras_file import read_variables
from onnxport.errors import WeightsMismatchError
from onnxport.loading.tensorflow_names import is_dead, pytorch_layout, pytorch_names

if TYPE_CHECKING:
    import torch

_NAMED_IN_ERRORS = 20

# Modules of TensorFlow models that their head doesn't use. A PyTorch model without the module may ignore its tensors.
# `{prefix}` is `base_model_prefix`.
_UNNEEDED = (r"^{prefix}\.pooler\.", r"^cls\.seq_relationship\.")


@dataclass
class _Binding:
    """Arrays and their variables by parameter, variables without a parameter, and mismatches."""

    sources: dict[str, str] = field(default_factory=dict)
    arrays: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    leftovers: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_tensorflow_state(path: Path, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Read a TensorFlow checkpoint into a state dict with all parameters and persistent buffers of a model.

    Args:
        path: `tf_model.h5`, or the `tf_model.h5.index.json` of a sharded checkpoint.
        model: the PyTorch model, on any device including `meta`; it isn't changed.

    Returns:
        The keys of `model.state_dict()`, with tensors on the CPU in the model's shapes and dtypes. Tied parameters
        share one tensor.

    Raises:
        MissingDependencyError: h5py isn't installed.
        CheckpointNotFoundError: the file is missing.
        CorruptCheckpointError: the file is truncated or malformed.
        WeightsMismatchError: a parameter has no tensor, a tensor no parameter, or shapes differ.
    """
    import torch

    expected = model.state_dict()
    owners = _tied_owners(model, expected)
    binding = _bind(read_variables(path), expected, owners, _matcher(model, expected))
    tensors = {
        owner: torch.from_numpy(np.array(array, order="C")).to(expected[owner].dtype)
        for owner, array in binding.arrays.items()
    }
    tensors |= _constants(model, expected, tensors)
    missing = [name for name, owner in owners.items() if owner not in tensors]
    leftovers = [variable for variable in binding.leftovers if not _may_remain(variable, model)]
    if missing or leftovers or binding.problems:
        raise WeightsMismatchError(_mismatch(path, model, missing, leftovers, binding.problems))
    return {name: tensors[owner] for name, owner in owners.items()}


def _tied_owners(model: torch.nn.Module, expected: dict[str, torch.Tensor]) -> dict[str, str]:
    """Map each key to the representative of its group of tied parameters, and an untied key to itself."""
    first: dict[int, str] = {}
    owners = {name: name for name in expected}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in owners:
            owners[name] = first.setdefault(id(parameter), name)
    for target, source in getattr(model, "all_tied_weights_keys", {}).items():
        if target in owners and source in owners:
            former, owner = owners[target], owners[source]
            owners = {name: owner if group == former else group for name, group in owners.items()}
    return owners


def _renamer(model: torch.nn.Module) -> Callable[[str], str]:
    """Return a function that renames a Transformers 4 key to its Transformers 5 name."""
    from transformers import PreTrainedModel
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    if not isinstance(model, PreTrainedModel):
        return lambda name: name
    renamings = [step for step in get_model_conversion_mapping(model) if isinstance(step, WeightRenaming)]

    def rename(name: str) -> str:
        for renaming in renamings:
            name = renaming.rename_source_key(name)[0]
        return name

    return rename


def _matcher(model: torch.nn.Module, expected: dict[str, torch.Tensor]) -> Callable[[str], str | None]:
    """Return a function that finds the key of a variable: renamed or not, with or without `base_model_prefix`."""
    rename = _renamer(model)
    prefix = f"{getattr(model, 'base_model_prefix', '')}."

    def match(variable: str) -> str | None:
        for name in pytorch_names(variable):
            for known in (rename(name), name, rename(prefix + name), rename(name.removeprefix(prefix))):
                for key in (known, prefix + known, known.removeprefix(prefix)):
                    if key in expected:
                        return key
        return None

    return match


def _bind(
    variables: dict[str, np.ndarray[Any, Any]],
    expected: dict[str, torch.Tensor],
    owners: dict[str, str],
    match: Callable[[str], str | None],
) -> _Binding:
    binding = _Binding()
    for variable, array in variables.items():
        if is_dead(variable):
            continue
        key = match(variable)
        if key is None:
            binding.leftovers.append(variable)
            continue
        owner, shape = owners[key], tuple(expected[key].shape)
        array = pytorch_layout(variable, array, shape)
        if array.shape != shape:
            binding.problems.append(f"{key} has shape {shape}, {variable} has {array.shape}")
        elif owner not in binding.arrays:
            binding.arrays[owner], binding.sources[owner] = array, variable
        elif not np.array_equal(binding.arrays[owner], array):
            binding.problems.append(f"{key} is set by {binding.sources[owner]} and, differently, by {variable}")
    return binding


def _constants(
    model: torch.nn.Module, expected: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return the integer buffers, which TensorFlow models compute from the configuration and don't save.

    `num_batches_tracked` of batch normalization layers is unused at inference, and set to 0.
    """
    import torch

    constants: dict[str, torch.Tensor] = {}
    for name, _ in model.named_buffers():
        if name not in expected or name in tensors or expected[name].is_floating_point():
            continue
        if name.endswith("num_batches_tracked"):
            constants[name] = torch.zeros(expected[name].shape, dtype=expected[name].dtype)
        elif not expected[name].is_meta:
            constants[name] = expected[name].detach().cpu()
    return constants


def _may_remain(variable: str, model: torch.nn.Module) -> bool:
    """Return whether a variable without a parameter is known to be unused, or belongs to a head of a base model."""
    name = pytorch_names(variable)[0]
    prefix = getattr(model, "base_model_prefix", "")
    unneeded = [pattern.format(prefix=re.escape(prefix)) for pattern in _UNNEEDED]
    unneeded += getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    if any(re.search(pattern, name) for pattern in unneeded):
        return True
    if not prefix or hasattr(model, prefix):
        return False
    children = {prefix, *(key.split(".", 1)[0] for key in model.state_dict())}
    return name.split(".", 1)[0] not in children


def _mismatch(path: Path, model: torch.nn.Module, missing: list[str], leftovers: list[str], problems: list[str]) -> str:
    lines = [f"The tensors of {path} are not those of {type(model).__name__}."]
    for title, names in (
        ("Parameters without tensor", missing),
        ("Tensors without parameter", leftovers),
        ("Mismatched tensors", problems),
    ):
        if names:
            more = f" and {len(names) - _NAMED_IN_ERRORS} more" if len(names) > _NAMED_IN_ERRORS else ""
            lines.append(f"{title} ({len(names)}): {', '.join(names[:_NAMED_IN_ERRORS])}{more}.")
    lines.append("Choose the task that the checkpoint was trained for, or the config.json that belongs to it.")
    return "\n".join(lines)
