"""Choose how few layers a model can be traced with, and the configuration that builds exactly those.

The reduced model is built by the model's own constructor from an edited configuration, and then compared with the full
one: the layers that were wanted, in order, and everything else unchanged. Where that comes out different, the model is
traced whole.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from onnxport.tracing.layers import LayerSignature, Stack, find_stacks, scalars

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

Build = Callable[["PreTrainedConfig"], "PreTrainedModel"]

_DEPTH = re.compile(r"(layers?|blocks?|depths?)$")
"""Names of settings that count layers: `num_hidden_layers`, `n_layer`, `encoder_layers`, `depths`."""

_DEEP = "deepstack_visual_indexes"
_BY_NUMBER = ("fullatt_block_indexes", "rescale_every", "insert_layer_id", _DEEP)
"""Settings that name layers for which the loop over them does something else; no layer shows it.

What is taken from the layers that the last one lists goes into the first layers of the decoder beside it."""


@dataclass(frozen=True)
class TracedStack:
    """Say how a stack of the full model is represented in the traced one.

    Attributes:
        path: name of the `ModuleList` in both.
        traced: signature of each traced layer, as a small number.
        full: signature of each layer of the full model, by the same numbers.
    """

    path: str
    traced: tuple[int, ...]
    full: tuple[int, ...]


@dataclass(frozen=True)
class Reduction:
    """Hold the model to trace and what it stands for.

    Attributes:
        model: fake parameters, reduced depth where that was possible.
        stacks: the stacks that were shortened; empty where the model is traced whole.
        notes: why a model, or a stack, is traced whole.
    """

    model: Any
    stacks: tuple[TracedStack, ...] = ()
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class _Full:
    """Hold the full model, and the stacks in it."""

    model: PreTrainedModel
    stacks: tuple[Stack, ...]


def reduce(full: PreTrainedModel, build: Build) -> Reduction:
    """Build the smallest model whose layers stand for all layers of a full one.

    Args:
        full: the model at full depth; only the shapes of its parameters are looked at.
        build: constructs a model with fake parameters from a configuration.
    """
    stacks = find_stacks(full)
    wanted: dict[int, set[int]] = {}
    for stack in stacks:
        wanted.setdefault(len(stack), set()).update(stack.representatives())
    by_number = _chosen_by_number(full.config)
    whole = {length for length, chosen in wanted.items() if len(chosen) == length or length in by_number}
    notes = tuple(
        f"{by_number[length]} chooses among {length} layers: all are traced" for length in whole & {*by_number}
    )
    kept = {length: tuple(range(length)) for length in whole}
    short = {length: tuple(sorted(chosen)) for length, chosen in wanted.items() if length not in whole}
    if not short:
        return Reduction(build(full.config), notes=notes)
    whole_model = _Full(full, stacks)
    model, reason = _attempt(whole_model, build, {**kept, **short})
    if model is None:
        model, kept = _one_by_one(whole_model, build, {**kept, **{n: tuple(range(n)) for n in short}}, short)
        note = f"not every layer that has a twin was left out: {reason}" if model else f"traced at full depth: {reason}"
        return Reduction(model or build(full.config), _traced_stacks(stacks, kept) if model else (), (*notes, note))
    return Reduction(model, _traced_stacks(stacks, {**kept, **short}), notes)


def _chosen_by_number(config: PreTrainedConfig, beside: str | None = None) -> dict[int, str]:
    """Map lengths of stacks to the setting by which the model's own code, not a layer's, chooses layers by number."""
    from transformers import PreTrainedConfig

    found: dict[int, str] = {}
    parts = [value for value in vars(config).values() if isinstance(value, PreTrainedConfig)]
    deep = next((_DEEP for part in parts if getattr(part, _DEEP, None)), beside)
    for part in parts:
        found |= _chosen_by_number(part, deep)
    setting = next((name for name in _BY_NUMBER if getattr(config, name, None)), beside)
    depths = [value for name, value in vars(config).items() if _DEPTH.search(name) and type(value) is int]
    return found | (dict.fromkeys(depths, setting) if setting else {})


def _one_by_one(
    full: _Full, build: Build, kept: dict[int, tuple[int, ...]], short: dict[int, tuple[int, ...]]
) -> tuple[PreTrainedModel | None, dict[int, tuple[int, ...]]]:
    """Shorten what can be shortened: stacks of one length after the other, by twins or else from the start."""
    best = None
    for length, chosen in sorted(short.items(), reverse=True):
        for attempt in (chosen, tuple(range(max(chosen) + 1))):
            if len(attempt) < length:
                model, _ = _attempt(full, build, {**kept, length: attempt})
                if model is not None:
                    best, kept = model, {**kept, length: attempt}
                    break
    return best, kept


def _attempt(full: _Full, build: Build, kept: dict[int, tuple[int, ...]]) -> tuple[PreTrainedModel | None, str | None]:
    """Build the model with the layers that are kept; None, and the reason, where that isn't what comes out."""
    try:
        model = build(shortened(full.model.config, kept))
    except Exception as error:
        return None, f"it can't be built with {_counts(kept)} layers ({type(error).__name__}: {error})"
    reason = _difference(full, model, kept)
    return (None, reason) if reason else (model, None)


def _counts(kept: dict[int, tuple[int, ...]]) -> str:
    return ", ".join(f"{len(chosen)} of {length}" for length, chosen in kept.items())


def shortened(config: PreTrainedConfig, kept: dict[int, tuple[int, ...]]) -> PreTrainedConfig:
    """Copy a configuration with fewer layers.

    Args:
        config: the full configuration.
        kept: for each length of a stack, the layers that stay.

    Returns:
        A copy in which settings that count layers have the new count, and lists with one entry per layer the entries
        of the layers that stay; in nested configurations, too.
    """
    short = copy.deepcopy(config)
    _shorten(short, kept)
    return short


def _shorten(config: Any, kept: dict[int, tuple[int, ...]]) -> None:
    from transformers import PreTrainedConfig

    for name, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            _shorten(value, kept)
        elif isinstance(value, (list, tuple)) and len(value) in kept and len(kept[len(value)]) < len(value):
            vars(config)[name] = type(value)(value[index] for index in kept[len(value)])
        elif isinstance(value, (list, tuple)) and _DEPTH.search(name):
            vars(config)[name] = type(value)(_count(item, kept) for item in value)
        elif _DEPTH.search(name):
            vars(config)[name] = _count(value, kept)


def _count(value: Any, kept: dict[int, tuple[int, ...]]) -> Any:
    return len(kept[value]) if type(value) is int and value in kept else value


def _difference(full: _Full, model: PreTrainedModel, kept: dict[int, tuple[int, ...]]) -> str | None:
    """Say in what a reduced model differs from the wanted one; None where it doesn't."""
    for stack in full.stacks:
        wanted = [stack.signatures[index] for index in kept[len(stack)]]
        if _signatures(model, stack.path) != wanted:
            return f"the layers {list(kept[len(stack)])} of {stack.path} can't be had alone"
    if _outside(full.model, full.stacks, kept) != _outside(model, full.stacks, {}):
        return "its depth decides more than the number of layers"
    return None


def _signatures(model: torch.nn.Module, path: str) -> list[LayerSignature]:
    from onnxport.tracing.layers import signature_of_layer

    try:
        layers = model.get_submodule(path)._modules.values()  # one that stands there twice comes twice
        return [signature_of_layer(layer) for layer in layers if layer is not None]
    except AttributeError:
        return []


def _outside(model: torch.nn.Module, stacks: tuple[Stack, ...], kept: dict[int, tuple[int, ...]]) -> list[Any]:
    """List everything outside the stacks: classes, settings, tensors. Counts of layers read as the reduced ones."""
    inside = tuple(f"{stack.path}." for stack in stacks)
    found: list[Any] = []
    for name, module in model.named_modules():
        if f"{name}.".startswith(inside):
            continue
        settings = [
            (key, _count(value, kept) if _DEPTH.search(key) else value)
            for key, value in scalars(module)
            if not (isinstance(value, (list, tuple)) and _DEPTH.search(key))
        ]
        tensors = (*module._parameters.items(), *module._buffers.items())
        shapes = [(key, None if value is None else tuple(value.shape)) for key, value in tensors]
        found.append((name, type(module), settings, shapes))
    return found


def _traced_stacks(stacks: tuple[Stack, ...], kept: dict[int, tuple[int, ...]]) -> tuple[TracedStack, ...]:
    return tuple(_traced(stack, kept) for stack in stacks if len(kept[len(stack)]) < len(stack))


def _traced(stack: Stack, kept: dict[int, tuple[int, ...]]) -> TracedStack:
    numbers = {signature: number for number, signature in enumerate(dict.fromkeys(stack.signatures))}
    full = tuple(numbers[signature] for signature in stack.signatures)
    return TracedStack(stack.path, tuple(full[index] for index in kept[len(stack)]), full)
