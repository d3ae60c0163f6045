"""What an adapter changes of a model's parameters, where tied parameters change together or apart as in PEFT.

PEFT trains a copy of a module (`modules_to_save`) and LoRA of a module without those that are tied to it; the trained
rows of token embeddings, and tensors that it saves because the vocabulary was resized, belong to all that are tied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from onnxport.checkpoint.adapters import Adapter, Factors, TokenRows
from onnxport.errors import UnsupportedError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Change:
    """Update of a weight: `W + scale * up @ down`, with rows rescaled to DoRA's magnitudes, if any.

    Attributes:
        parameter: name of the weight.
        factors: keys of the LoRA tensors.
        scale: factor of the product.
        transposed: whether the weight is stored as `[in_features, out_features]`.
    """

    parameter: str
    factors: Factors
    scale: float
    transposed: bool


@dataclass(frozen=True)
class Merge:
    """Plan for merging an adapter into a model.

    Attributes:
        adapter: the adapter.
        replacements: key of the tensor that replaces each parameter, before the updates are added.
        rows: trained rows of each table, which replace those of the base model.
        changes: updates of weights, one per weight.
        untied: groups of parameters that get a tensor of their own, since the adapter changes those that they were
            tied to, or the other way round.
    """

    adapter: Adapter
    replacements: Mapping[str, str]
    rows: Mapping[str, TokenRows]
    changes: tuple[Change, ...]
    untied: tuple[tuple[str, ...], ...] = ()


def with_tied(merge: Merge, model: PreTrainedModel) -> Merge:
    """Return a plan in which tied parameters change together, or are untied.

    Args:
        merge: a plan by the names in the adapter.
        model: its base model.

    Raises:
        UnsupportedError: the rows of a table are trained, and it has LoRA factors, too.
    """
    state: dict[str, torch.Tensor] = dict(model.state_dict(keep_vars=True))
    both = sorted(merge.rows.keys() & {change.parameter for change in merge.changes})
    if both:
        raise UnsupportedError(
            f"{merge.adapter.name}: {both[0]} has LoRA factors and trainable_token_indices, whose order isn't known; "
            "merge the adapter with PEFT's `merge_and_unload()`, save the model, and export that"
        )
    groups: dict[int, list[str]] = {}
    for name, tensor in state.items():
        groups.setdefault(id(tensor), []).append(name)
    for names in (names for names in groups.values() if len(names) > 1):
        merge = _with_group(merge, names, _embedding_of(model, names))
    return merge


def _embedding_of(model: PreTrainedModel, names: list[str]) -> str:
    """Return which parameter is the table of token embeddings; the first if none is."""
    from torch import nn

    owners = {name: model.get_submodule(name.rpartition(".")[0]) for name in names}
    return next((name for name, owner in owners.items() if isinstance(owner, nn.Embedding)), names[0])


def _with_group(merge: Merge, names: list[str], embedding: str) -> Merge:
    """Return a plan for a group of tied parameters."""
    adapter = merge.adapter
    replacements, rows = dict(merge.replacements), dict(merge.rows)
    changes = {change.parameter: change for change in merge.changes}
    all_change = adapter.ensures_tying
    saved = [name for name in names if name in replacements and (all_change or not adapter.replaces(name))]
    for name in names if saved else ():
        replacements.setdefault(name, replacements[saved[0]])
    trained = {rows[name].indices for name in names if name in rows}
    if len(trained) == 1 and embedding in rows:
        rows |= {name: rows[embedding] for name in names}
    treatments: dict[str, object] = {}
    if all_change:
        first = next((name for name in (embedding, *names) if name in changes), None)
        changes = {name: change for name, change in changes.items() if name not in names or name == first}
    else:
        own = {name: key for name, key in merge.replacements.items() if name not in saved}
        treatments = {name: (own.get(name), rows.get(name), changes.get(name)) for name in names}
    classes: dict[object, list[str]] = {}
    for name, treatment in treatments.items():
        classes.setdefault(treatment, []).append(name)
    untied = tuple(tuple(group) for group in list(classes.values())[1:])
    changed_all = tuple(changes.values())
    return replace(merge, replacements=replacements, rows=rows, changes=changed_all, untied=merge.untied + untied)


def untie(merge: Merge, model: PreTrainedModel) -> None:
    """Give the parameters that a plan unties tensors of their own, in place.

    Args:
        merge: the plan.
        model: its base model; parameters may be recordings.
    """
    from torch import nn

    state: Mapping[str, torch.Tensor] = model.state_dict(keep_vars=True)
    for group in merge.untied:
        separate = nn.Parameter(state[group[0]].detach().clone(), requires_grad=False)
        for name in group:
            owner, _, key = name.rpartition(".")
            model.get_submodule(owner)._parameters[key] = separate
