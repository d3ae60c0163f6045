"""Merge an adapter into a model: into the expressions of its parameters, or into parameters in memory.

What changes is one plan, made from the model's modules; both ways follow it, each with its own arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from onnxport.checkpoint.adapters import KEY_PREFIX, Adapter, Factors
from onnxport.checkpoint.checkpoint import Checkpoint
from onnxport.errors import UnsupportedError, WeightsMismatchError
from onnxport.loading.accounting import Account, drop_missing_poolers, settle
from onnxport.weights import building
from onnxport.weights.expressions import Expression, Stored

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_SHOWN = 5


@dataclass(frozen=True)
class Change:
    """Say how a weight changes: `W + scale * up @ down`, with rows of given lengths where there are any.

    Attributes:
        parameter: the weight's name.
        factors: keys of the tensors.
        scale: what the product is multiplied by.
        transposed: whether the weight is stored as `[in, out]`.
    """

    parameter: str
    factors: Factors
    scale: float
    transposed: bool


@dataclass(frozen=True)
class Merge:
    """Say what an adapter does to a model.

    Attributes:
        adapter: see `Adapter`.
        whole: name of a parameter → key of the tensor that replaces it, before anything is added.
        changes: of the weights, one for each.
    """

    adapter: Adapter
    whole: Mapping[str, str]
    changes: tuple[Change, ...]


def plan_merge(adapter: Adapter, model: PreTrainedModel) -> Merge:
    """Find what every tensor of an adapter is for.

    Args:
        adapter: the adapter.
        model: its base, in the class that is exported; no parameter needs values.

    Raises:
        WeightsMismatchError: a tensor fits no parameter, or has another shape.
        UnsupportedError: a module isn't of a class that is merged here, or a changed weight is tied to another.
    """
    state = dict(model.state_dict(keep_vars=True))
    modules = dict(model.named_modules())
    places = {module: _found(module, modules, model) for module in adapter.factors}
    whole = {name: _found(name, state, model) for name in adapter.whole}
    lost = [name for name, place in (*places.items(), *whole.items()) if place is None]
    if lost:
        more = f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
        raise WeightsMismatchError(
            f"{adapter.name}: the adapter has tensors for {', '.join(lost[:_SHOWN])}{more}, which "
            f"{type(model).__name__} doesn't have; check the base, and export the task that the adapter was trained for"
        )
    changes = []
    for module, place in places.items():
        assert place is not None
        changes.append(_change(adapter, (module, place), modules[place]))
    merge = Merge(adapter, {place: adapter.whole[name] for name, place in whole.items() if place}, tuple(changes))
    _check_shapes(merge, model, state)
    return merge


def settle_with(
    checkpoint: Checkpoint, account: Account, model: PreTrainedModel
) -> tuple[Merge | None, frozenset[str]]:
    """Settle a load of the base of an adapter: what the adapter has needn't be in the base, or have its shape.

    Returns:
        What is to be merged, None for a checkpoint without adapter; and the leftover tensors that were accepted.

    Raises:
        WeightsMismatchError: see `settle` and `plan_merge`.
        UnsupportedError: see `plan_merge`.
    """
    if checkpoint.adapter is None:
        return None, settle(drop_missing_poolers(account, model), model, checkpoint)
    merge = plan_merge(checkpoint.adapter, model)
    given = merge.whole.keys()
    account = replace(
        account,
        missing=account.missing - given,
        mismatched=frozenset(item for item in account.mismatched if item[0] not in given),
    )
    return merge, settle(drop_missing_poolers(account, model), model, checkpoint)


def merge_expressions(
    merge: Merge,
    expressions: dict[str, Expression | None],
    tied: Mapping[str, str],
    tensors: Mapping[str, Stored],
    same: Callable[[Expression, Expression], bool],
) -> None:
    """Merge an adapter into what parameters are made of.

    Args:
        merge: what to do.
        expressions: parameter → expression, changed in place.
        tied: name of a parameter → name whose tensor it shares.
        tensors: of the adapter, with their prefix.
        same: tells whether two tensors have the same values; it reads them.

    Raises:
        UnsupportedError: tied parameters would differ, or a tensor has a type that can't be computed with.
    """
    made: dict[str, Expression] = {}
    for name, key in merge.whole.items():
        owner = tied.get(name, name)
        own: Expression = tensors[KEY_PREFIX + key]
        if owner in made and not same(made[owner], own):
            raise _tied_error(merge.adapter, name, owner)
        made[owner] = own
    try:
        for owner, own in made.items():
            before = expressions[owner]
            expressions[owner] = own if before is None else building.cast(own, before.dtype)
        for change in merge.changes:
            before = expressions[change.parameter]
            assert before is not None, "a parameter without values isn't changed"
            base = building.uncast(before)
            if change.parameter in made:
                base = made[change.parameter]
            expressions[change.parameter] = building.cast(_merged(change, base, tensors), before.dtype)
    except TypeError as error:
        raise UnsupportedError(f"{merge.adapter.name}: the adapter can't be merged: {error}") from error


def _merged(change: Change, base: Expression, tensors: Mapping[str, Stored]) -> Expression:
    keys = change.factors
    up, down = (_matrix(tensors[KEY_PREFIX + key]) for key in (keys.up, keys.down))
    matrix = _matrix(base)
    if keys.lengths is None and change.transposed:
        merged = building.low_rank(matrix, _turned(down), _turned(up), change.scale)
    else:
        merged = building.low_rank(_turned(matrix) if change.transposed else matrix, up, down, change.scale)
    if keys.lengths is not None:
        lengths = tensors[KEY_PREFIX + keys.lengths]
        merged = building.rescaled(merged, building.reshape(lengths, [lengths.size]))
        merged = _turned(merged) if change.transposed else merged
    return building.reshape(merged, base.shape)


def _matrix(of: Expression) -> Expression:
    return building.reshape(of, [of.shape[0], math.prod(of.shape[1:])])


def _turned(of: Expression) -> Expression:
    return building.transpose(of, (1, 0))


def merge_in_memory(merge: Merge, model: PreTrainedModel) -> None:
    """Merge an adapter into parameters that have values, one at a time, in float32.

    Args:
        merge: what to do.
        model: its parameters are changed in place.

    Raises:
        UnsupportedError: tied parameters would differ.
    """
    import torch
    from safetensors import safe_open

    state: dict[str, torch.Tensor] = dict(model.state_dict(keep_vars=True))
    with torch.no_grad(), safe_open(merge.adapter.file, framework="pt") as file:
        written: dict[int, str] = {}
        for name, key in merge.whole.items():
            parameter, own = state[name], file.get_tensor(key)
            first = written.setdefault(id(parameter), key)
            if first != key and not torch.equal(file.get_tensor(first), own):
                raise _tied_error(merge.adapter, name, first)
            parameter.data = own.to(parameter.dtype)
        for change in merge.changes:
            weight = state[change.parameter].data
            weight.copy_(_merged_values(change, weight, file.get_tensor))


def _merged_values(change: Change, weight: torch.Tensor, read: Callable[[str], torch.Tensor]) -> torch.Tensor:
    import torch

    base = weight.float().flatten(1)
    up, down = (read(key).float().flatten(1) for key in (change.factors.up, change.factors.down))
    merged = torch.addmm(base.T if change.transposed else base, up, down, alpha=change.scale)
    if change.factors.lengths is not None:
        merged *= (read(change.factors.lengths).float().flatten() / merged.norm(dim=1)).unsqueeze(1)
    return (merged.T if change.transposed else merged).reshape(weight.shape)


def _found(name: str, names: Mapping[str, Any], model: PreTrainedModel) -> str | None:
    """Return the name that a model has for what its adapter names.

    It may be that of another class of its family, or one that earlier releases of Transformers had.
    """
    prefix = f"{model.base_model_prefix}." if model.base_model_prefix else ""
    for own in (name, _renamed(name, model)):
        for spelling in (own, prefix + own, own.removeprefix(prefix)):
            if spelling in names:
                return spelling
    return None


def _renamed(name: str, model: PreTrainedModel) -> str:
    """Rename as the loader renames the tensors of an old checkpoint; a module is where its weight is."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    ending = "" if name.endswith((".weight", ".bias")) else ".weight"
    name += ending
    for rule in get_model_conversion_mapping(model):
        if isinstance(rule, WeightRenaming):
            name = rule.rename_source_key(name)[0]
    return name.removesuffix(ending)


def _change(adapter: Adapter, names: tuple[str, str], module: Any) -> Change:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    own, place = names
    convolution = isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    if not isinstance(module, nn.Linear | nn.Embedding | Conv1D) and not (convolution and module.groups == 1):
        what = f"a {type(module).__name__} in {module.groups} groups" if convolution else f"a {type(module).__name__}"
        raise UnsupportedError(
            f"{adapter.name}: the adapter changes {place}, which is {what}; only linear layers, embeddings and "
            "convolutions of one group are merged here: use PEFT's `merge_and_unload()`, save the model, and export it"
        )
    transposed = isinstance(module, nn.Embedding | Conv1D)
    return Change(f"{place}.weight", adapter.factors[own], adapter.scale_of(own), transposed)


def _check_shapes(merge: Merge, model: PreTrainedModel, state: Mapping[str, torch.Tensor]) -> None:
    shapes = merge.adapter.shapes
    for name, key in merge.whole.items():
        if tuple(state[name].shape) != shapes[key]:
            raise WeightsMismatchError(
                f"{merge.adapter.name}: the adapter's {name} is {list(shapes[key])}, and {type(model).__name__} has "
                f"{list(state[name].shape)}; correct the base's config.json (num_labels, vocab_size), or give the base "
                "that the adapter was trained with"
            )
    first: dict[int, str] = {}
    shared = {id(tensor) for name, tensor in state.items() if first.setdefault(id(tensor), name) != name}
    for change in merge.changes:
        weight = state[change.parameter]
        up, down = shapes[change.factors.up], shapes[change.factors.down]
        made = (up[0], math.prod(down[1:]))
        wanted = (weight.shape[0], math.prod(weight.shape[1:]))
        if made != (wanted[::-1] if change.transposed else wanted):
            raise WeightsMismatchError(
                f"{merge.adapter.name}: the adapter's factors for {change.parameter} are {list(up)} and {list(down)}, "
                f"and the weight is {list(weight.shape)}; give the base that the adapter was trained with"
            )
        if id(weight) in shared:
            raise _tied_error(merge.adapter, change.parameter, first[id(weight)])
    for name in merge.whole:
        others = [other for other, tensor in state.items() if tensor is state[name] and other not in merge.whole]
        if others and merge.adapter.saves(name):
            raise _tied_error(merge.adapter, name, others[0])


def _tied_error(adapter: Adapter, name: str, other: str) -> UnsupportedError:
    with_what = "another parameter" if name == other else other
    return UnsupportedError(
        f"{adapter.name}: the adapter changes {name}, which is tied to {with_what}: they would differ; save the base "
        'with "tie_word_embeddings": false and both tensors, and give that as MODEL with --adapter'
    )
