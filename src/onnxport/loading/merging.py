"""Merge a LoRA adapter into the expressions of a model's parameters, or into its parameters in memory.

Both follow the same plan, which is derived from the model's modules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from onnxport.checkpoint.adapters import KEY_PREFIX, Adapter, TokenRows
from onnxport.checkpoint.checkpoint import Checkpoint
from onnxport.errors import UnsupportedError, WeightsMismatchError
from onnxport.loading.accounting import LoadReport, check_complete, remove_missing_poolers
from onnxport.loading.merge_plan import Change, Merge, untie, with_tied
from onnxport.weights import building
from onnxport.weights.expressions import Expression, Stored

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

_SHOWN = 5


def plan_merge(adapter: Adapter, model: PreTrainedModel) -> Merge:
    """Assign every tensor of an adapter to a parameter.

    Args:
        adapter: the adapter.
        model: its base model, of the exported class; parameters may be on the meta device.

    Raises:
        WeightsMismatchError: a tensor matches no parameter, or its shape differs.
        UnsupportedError: the class of a module isn't supported, or rows of a table are trained in two ways.
    """
    state = dict(model.state_dict(keep_vars=True))
    modules = dict(model.named_modules())
    paths = {name: _model_name(name, modules, model) for name in (*adapter.factors, *adapter.tokens)}
    parameters = {name: _model_name(name, state, model) for name in adapter.replacements}
    unmatched = [name for name, found in (*paths.items(), *parameters.items()) if found is None]
    if unmatched:
        more = f" and {len(unmatched) - _SHOWN} more" if len(unmatched) > _SHOWN else ""
        raise WeightsMismatchError(
            f"{adapter.name}: the adapter has tensors for {', '.join(unmatched[:_SHOWN])}{more}, which "
            f"{type(model).__name__} doesn't have; check the base model, and export the task that the adapter was "
            "trained for"
        )
    changes = tuple(
        _describe_change(adapter, name, path, modules[path])
        for name, path in paths.items()
        if path is not None and name in adapter.factors
    )
    replacements = {found: adapter.replacements[name] for name, found in parameters.items() if found}
    rows = {f"{paths[name]}.weight": trained for name, trained in adapter.tokens.items()}
    merge = Merge(adapter, replacements, rows, changes)
    _check_shapes(merge, model, state)
    return with_tied(merge, model)


def check_with_adapter(
    checkpoint: Checkpoint, report: LoadReport, model: PreTrainedModel
) -> tuple[Merge | None, frozenset[str]]:
    """Check that a load is complete; parameters that an adapter replaces may be missing, or have other shapes.

    Returns:
        The plan of the merge, or None for a checkpoint without an adapter, and the accepted unexpected tensors.

    Raises:
        WeightsMismatchError: see `check_complete` and `plan_merge`.
        UnsupportedError: see `plan_merge`.
    """
    if checkpoint.adapter is None:
        return None, check_complete(remove_missing_poolers(report, model), model, checkpoint)
    merge = plan_merge(checkpoint.adapter, model)
    untie(merge, model)
    replaced = merge.replacements.keys()
    report = replace(
        report,
        missing=report.missing - replaced,
        mismatched=frozenset(item for item in report.mismatched if item[0] not in replaced),
    )
    return merge, check_complete(remove_missing_poolers(report, model), model, checkpoint)


def merge_expressions(
    merge: Merge,
    expressions: dict[str, Expression | None],
    tied: Mapping[str, str],
    tensors: Mapping[str, Stored],
    same: Callable[[Expression, Expression], bool],
) -> None:
    """Merge an adapter into the expressions of parameters.

    Args:
        merge: plan of the merge.
        expressions: expressions by parameter name, changed in place.
        tied: parameter to the parameter whose tensor it shares.
        tensors: tensors of the adapter by prefixed key.
        same: reads two tensors and returns whether their values are equal.

    Raises:
        UnsupportedError: tied parameters would differ, or arithmetic isn't supported for the dtype of a tensor.
    """
    replaced: dict[str, Expression] = {}
    for name, key in merge.replacements.items():
        owner = tied.get(name, name)
        replacement: Expression = tensors[KEY_PREFIX + key]
        if owner in replaced and not same(replaced[owner], replacement):
            raise _tied_error(merge.adapter, name, owner)
        replaced[owner] = replacement
    try:
        for owner, replacement in replaced.items():
            before = expressions[owner]
            expressions[owner] = replacement if before is None else building.cast(replacement, before.dtype)
        for owner, trained in {tied.get(name, name): rows for name, rows in merge.rows.items()}.items():
            expressions[owner] = _with_rows(_known(expressions, owner), tensors[KEY_PREFIX + trained.key], trained)
        for change in merge.changes:
            owner = tied.get(change.parameter, change.parameter)
            before = _known(expressions, owner)
            base = replaced[owner] if owner in replaced else building.uncast(before)
            expressions[owner] = building.cast(_merged(change, base, tensors), before.dtype)
    except TypeError as error:
        raise UnsupportedError(f"{merge.adapter.name}: the adapter can't be merged: {error}") from error


def _known(expressions: Mapping[str, Expression | None], name: str) -> Expression:
    expression = expressions[name]
    assert expression is not None, "a parameter without data isn't updated"
    return expression


def _with_rows(table: Expression, rows: Expression, trained: TokenRows) -> Expression:
    """Replace rows of a table; those with consecutive token ids are one part of the result."""
    rows = building.cast(rows, table.dtype)
    parts, end = [], 0
    for index, row in sorted(zip(trained.indices, range(len(trained.indices)), strict=True)):
        parts.append(building.cut(table, 0, end, index))
        parts.append(building.cut(rows, 0, row, row + 1))
        end = index + 1
    parts.append(building.cut(table, 0, end, table.shape[0]))
    return building.concatenate(parts, 0)


def _merged(change: Change, base: Expression, tensors: Mapping[str, Stored]) -> Expression:
    keys = change.factors
    up, down = (_matrix(tensors[KEY_PREFIX + key]) for key in (keys.up, keys.down))
    matrix = _matrix(base)
    if keys.magnitude is None and change.transposed:
        merged = building.low_rank(matrix, _transpose(down), _transpose(up), change.scale)
    else:
        merged = building.low_rank(_transpose(matrix) if change.transposed else matrix, up, down, change.scale)
    if keys.magnitude is not None:
        magnitude = tensors[KEY_PREFIX + keys.magnitude]
        merged = building.rescaled(merged, building.reshape(magnitude, [magnitude.size]))
        merged = _transpose(merged) if change.transposed else merged
    return building.reshape(merged, base.shape)


def _matrix(tensor: Expression) -> Expression:
    return building.reshape(tensor, [tensor.shape[0], math.prod(tensor.shape[1:])])


def _transpose(matrix: Expression) -> Expression:
    return building.transpose(matrix, (1, 0))


def merge_in_memory(merge: Merge, model: PreTrainedModel) -> None:
    """Merge an adapter into parameters in memory, one at a time, in float32.

    Args:
        merge: plan of the merge.
        model: the model, whose parameters are changed in place.

    Raises:
        UnsupportedError: tied parameters would differ.
    """
    import torch
    from safetensors import safe_open

    state: dict[str, torch.Tensor] = dict(model.state_dict(keep_vars=True))
    with torch.no_grad(), safe_open(merge.adapter.file, framework="pt") as file:
        written: dict[int, str] = {}
        for name, key in merge.replacements.items():
            parameter, replacement = state[name], file.get_tensor(key)
            first = written.setdefault(id(parameter), key)
            if first != key and not torch.equal(file.get_tensor(first), replacement):
                raise _tied_error(merge.adapter, name, first)
            parameter.data = replacement.to(parameter.dtype, copy=True)  # the file is mapped, and may be used twice
        for name, trained in merge.rows.items():
            table = state[name]
            table.data[list(trained.indices)] = file.get_tensor(trained.key).to(table.dtype)
        for change in merge.changes:
            weight = state[change.parameter].data
            weight.copy_(_merged_values(change, weight, file.get_tensor))


def _merged_values(change: Change, weight: torch.Tensor, read: Callable[[str], torch.Tensor]) -> torch.Tensor:
    import torch

    base = weight.float().flatten(1)
    up, down = (read(key).float().flatten(1) for key in (change.factors.up, change.factors.down))
    merged = torch.addmm(base.T if change.transposed else base, up, down, alpha=change.scale)
    if change.factors.magnitude is not None:
        merged *= (read(change.factors.magnitude).float().flatten() / merged.norm(dim=1)).unsqueeze(1)
    return (merged.T if change.transposed else merged).reshape(weight.shape)


def _model_name(name: str, names: Container[str], model: PreTrainedModel) -> str | None:
    """Return the model's name of a module or parameter in its adapter; None if the model doesn't have it.

    The adapter may have been trained with another class of the family, or with an earlier version of Transformers.
    """
    prefix = f"{model.base_model_prefix}." if model.base_model_prefix else ""
    for candidate in (name, _renamed(name, model)):
        for spelling in (candidate, prefix + candidate, candidate.removeprefix(prefix)):
            if spelling in names:
                return spelling
    return None


def _renamed(name: str, model: PreTrainedModel) -> str:
    """Rename a tensor like Transformers' loader renames those of an old checkpoint, and a module like its weight."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    ending = "" if name.endswith((".weight", ".bias")) else ".weight"
    name += ending
    for rule in get_model_conversion_mapping(model):
        if isinstance(rule, WeightRenaming):
            name = rule.rename_source_key(name)[0]
    return name.removesuffix(ending)


def _describe_change(adapter: Adapter, name: str, path: str, module: nn.Module) -> Change:
    """Describe the update of a module's weight; the module is `name` in the adapter and `path` in the model."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    groups = module.groups if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) else None
    if not isinstance(module, nn.Linear | nn.Embedding | Conv1D) and groups != 1:
        class_name = f"{type(module).__name__} with {groups} groups" if groups else type(module).__name__
        raise UnsupportedError(
            f"{adapter.name}: the adapter changes {path}, which is a {class_name}; only linear layers, embeddings and "
            "convolutions with one group can be merged: use PEFT's `merge_and_unload()`, save the model, and export it"
        )
    transposed = isinstance(module, nn.Embedding | Conv1D)
    return Change(f"{path}.weight", adapter.factors[name], adapter.scale_of(name), transposed)


def _check_shapes(merge: Merge, model: PreTrainedModel, state: Mapping[str, torch.Tensor]) -> None:
    shapes = merge.adapter.shapes
    for name, key in merge.replacements.items():
        if tuple(state[name].shape) != shapes[key]:
            raise WeightsMismatchError(
                f"{merge.adapter.name}: the adapter's {name} is {list(shapes[key])}, and {type(model).__name__} has "
                f"{list(state[name].shape)}; correct the base model's config.json (num_labels, vocab_size), or give "
                "the base model that the adapter was trained with"
            )
    for name, trained in merge.rows.items():
        if shapes[trained.key][1:] != tuple(state[name].shape)[1:] or max(trained.indices) >= len(state[name]):
            raise WeightsMismatchError(
                f"{merge.adapter.name}: the adapter has rows {list(shapes[trained.key])} of {name} for token ids up to "
                f"{max(trained.indices)}, and the weight is {list(state[name].shape)}; give the base model that the "
                "adapter was trained with"
            )
    for change in merge.changes:
        weight = state[change.parameter]
        up, down = shapes[change.factors.up], shapes[change.factors.down]
        product = (up[0], math.prod(down[1:]))
        matrix = (weight.shape[0], math.prod(weight.shape[1:]))
        if product != (matrix[::-1] if change.transposed else matrix):
            raise WeightsMismatchError(
                f"{merge.adapter.name}: lora_B and lora_A of {change.parameter} are {list(up)} and {list(down)}, "
                f"and the weight is {list(weight.shape)}; give the base model that the adapter was trained with"
            )


def _tied_error(adapter: Adapter, name: str, other: str) -> UnsupportedError:
    tied = "another parameter" if name == other else other
    return UnsupportedError(
        f"{adapter.name}: the adapter has different values for {name} and {tied}, which are tied; save the base model "
        'with "tie_word_embeddings": false and both tensors, and give that as MODEL with --adapter'
    )
