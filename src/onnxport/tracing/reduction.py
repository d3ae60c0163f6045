"""Choose how few layers a model can be traced with, and the configuration that builds exactly those.

The reduced model is built by the model's own constructor from an edited configuration, and then compared with the full
one: the layers that were wanted, in order, and everything else unchanged. Every setting that counts layers is edited at
once; where that changes more than layers, one setting after the other is tried, and those that do are left alone. A
stack that no setting shortens is traced whole.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from onnxport.tracing.layers import Stack, class_of, find_stacks, scalars, signatures_at

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

Build = Callable[["PreTrainedConfig"], "PreTrainedModel"]

_DEPTH = re.compile(r"(layers?|blocks?|depths?)$")
"""Names of settings that count layers: `num_hidden_layers`, `n_layer`, `encoder_layers`, `depths`."""
_CHOICE = re.compile(r"(indexes|indices|target_layers|layer_map)$")
"""Names of settings that list some layers' numbers, `deepstack_visual_indexes`: a graph takes or gives one of each."""
_CHOSEN = "out_indices"
"""Setting of backbones: the numbers of the layers whose states they return, counted from what comes before them."""


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

    def stands_for(self, position: int) -> tuple[int, ...]:
        """Return the numbers of the layers of the full model that are made from a traced one, or proved by it alone.

        The first layer is made from the first; any other from the second of its kind that was traced.
        """
        kind = self.traced[position]
        isomorphic = [other for other, its in enumerate(self.traced) if its == kind]
        numbers = [number for number, its in enumerate(self.full) if its == kind]
        if position != isomorphic[min(1, len(isomorphic) - 1)]:
            return (numbers[isomorphic.index(position)],)
        return tuple(number for number in numbers if number or not position)


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
class Cut:
    """Say which settings are edited for fewer layers.

    Attributes:
        length: number of layers of the stacks that get shorter.
        kept: the layers that stay.
        setting: the only setting that is changed, as the path of its configuration and its name; None for all that
            count `length` layers.
        lists: whether lists with one entry per layer keep the entries of the layers that stay, too.
    """

    length: int
    kept: tuple[int, ...]
    setting: tuple[str, str] | None = None
    lists: bool = True

    def picks(self, values: Any) -> Any:
        """Return the entries of the layers that stay."""
        return type(values)(values[index] for index in self.kept)


Cuts = tuple[Cut, ...]


def reduce(full: PreTrainedModel, build: Build, whole: frozenset[str] = frozenset()) -> Reduction:
    """Build the smallest model whose layers stand for all layers of a full one.

    Args:
        full: the model at full depth; only the shapes of its parameters are looked at.
        build: constructs a model with fake parameters from a configuration.
        whole: names of stacks that must keep all their layers.
    """
    stacks = tuple(s for s in find_stacks(full) if s.path not in whole and len(s.representatives()) < len(s))
    if not stacks:
        return Reduction(build(full.config))
    search = _Search(full, build, stacks)
    found, reason = search.attempt(tuple(search.at_once()))
    if found is None:
        found = search.one_by_one() or search.attempt(tuple(search.at_once()), shares=True)[0]
    if found is None:
        return Reduction(build(full.config), notes=(f"traced at full depth: {reason}",))
    model, kept = found
    short = tuple(_traced(stack, kept[stack.path]) for stack in stacks if len(kept[stack.path]) < len(stack))
    left = [stack.path for stack in stacks if len(kept[stack.path]) == len(stack)]
    notes = (f"not every layer that has a twin was left out: all of {', '.join(left)} are traced",) if left else ()
    return Reduction(model, short, notes)


Reduced = tuple["PreTrainedModel", dict[str, tuple[int, ...]]]
"""A model, and for the name of each stack the layers that it has."""


@dataclass(frozen=True)
class _Search:
    """Look for the settings that shorten stacks, and nothing else."""

    full: PreTrainedModel
    build: Build
    stacks: tuple[Stack, ...]

    def at_once(self) -> Iterator[Cut]:
        """Yield the cuts that shorten all stacks: those of one length alike."""
        for length, wanted in self._wanted().items():
            kept = tuple(sorted({index for chosen in wanted for index in chosen}))
            if len(kept) < length:
                yield Cut(length, kept)

    def one_by_one(self) -> Reduced | None:
        """Shorten what can be shortened: setting after setting, by twins or else from the start."""
        best, taken, tried = None, Cuts(), set()
        for length, wanted in sorted(self._wanted().items(), reverse=True):
            prefixes = [tuple(range(max(chosen) + 1)) for chosen in wanted]
            choices = [chosen for chosen in dict.fromkeys((*wanted, *prefixes)) if len(chosen) < length]
            for setting in _settings(self.full.config, length):
                cuts = (Cut(length, kept, setting, lists) for kept in choices for lists in (True, False))
                for cut in cuts:
                    edited = repr(shortened(self.full.config, (*taken, cut)).to_dict())
                    found = None if edited in tried else self.attempt((*taken, cut))[0]
                    tried.add(edited)
                    if found is not None and _size(found) < (_size(best) if best else self._size()):
                        best, taken = found, (*taken, cut)
                        break
        return best

    def attempt(self, cuts: Cuts, *, shares: bool = False) -> tuple[Reduced | None, str]:
        """Build the model with the layers that are kept; None, and the reason, where that isn't what comes out.

        `shares` lets sizes outside the layers get smaller as the layers get fewer.
        """
        if not cuts:
            return None, "its stacks of one length have other layers in common"
        try:
            model = self.build(shortened(self.full.config, cuts))
        except Exception as error:  # noqa: BLE001  a constructor refuses a count of layers by any exception
            counts = ", ".join(f"{len(cut.kept)} of {cut.length}" for cut in cuts)
            return None, f"it can't be built with {counts} layers ({type(error).__name__}: {error})"
        kept = {}
        for stack in self.stacks:
            found = _layers_in(model, stack, cuts)
            if found is None:
                wanted = next((list(cut.kept) for cut in cuts if cut.length == len(stack)), "all")
                return None, f"the layers {wanted} of {stack.path} can't be had alone"
            kept[stack.path] = found
        if all(len(kept[stack.path]) == len(stack) for stack in self.stacks):
            return None, "no setting says how many layers it has"
        if not _same_outside(_outside(self.full, self.stacks), _outside(model, self.stacks), cuts, shares):
            return None, "its depth decides more than the number of layers"
        return (model, kept), ""

    def _wanted(self) -> dict[int, list[tuple[int, ...]]]:
        wanted: dict[int, list[tuple[int, ...]]] = {}
        for stack in self.stacks:
            wanted.setdefault(len(stack), []).append(stack.representatives())
        return wanted

    def _size(self) -> int:
        return sum(len(stack) for stack in self.stacks)


def _size(found: Reduced) -> int:
    return sum(map(len, found[1].values()))


def _layers_in(model: PreTrainedModel, stack: Stack, cuts: Cuts) -> tuple[int, ...] | None:
    """Say which layers of a stack a model has: all, or the kept ones if they stand for all; None for others."""
    found = signatures_at(model, stack.path, stack.lists)
    for kept in (tuple(range(len(stack))), *(cut.kept for cut in cuts if cut.length == len(stack))):
        if found == tuple(stack.signatures[index] for index in kept) and {*stack.representatives()} <= {*kept}:
            return kept
    return None


def _settings(config: PreTrainedConfig, length: int, part: str = "") -> Iterator[tuple[str, str]]:
    """Yield the settings that count `length` layers, and last, under no name, the lists with an entry per layer."""
    from transformers import PreTrainedConfig

    has_list = False
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            yield from _settings(value, length, f"{part}{name}.")
        elif _DEPTH.search(name) and (value == length or (isinstance(value, (list, tuple)) and length in value)):
            yield part, name
        has_list = has_list or (isinstance(value, (list, tuple)) and len(value) == length)
    if has_list:
        yield part, ""


def shortened(config: PreTrainedConfig, cuts: Cuts) -> PreTrainedConfig:
    """Copy a configuration with fewer layers.

    Args:
        config: the full configuration.
        cuts: what gets shorter.

    Returns:
        A copy in which settings that count layers have the new count, and lists with one entry per layer the entries
        of the layers that stay; in nested configurations, too.
    """
    short = copy.deepcopy(config)
    for cut in cuts:
        _shorten(short, cut)
    return short


def _shorten(config: Any, cut: Cut, part: str = "") -> None:
    from transformers import PreTrainedConfig

    for name, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            _shorten(value, cut, f"{part}{name}.")
        elif name in ("_out_indices", "_out_features", "stage_names"):
            vars(config)[name] = _stages(value, cut)
        elif _CHOICE.search(name) or (cut.setting is not None and cut.setting[0] != part):
            continue
        elif isinstance(value, (list, tuple)) and len(value) == cut.length and cut.lists:
            vars(config)[name] = cut.picks(value)
        elif not _DEPTH.search(name) or (cut.setting is not None and cut.setting[1] != name):
            continue
        elif isinstance(value, (list, tuple)):
            vars(config)[name] = type(value)(_count(item, cut) for item in value)
        else:
            vars(config)[name] = _count(value, cut)


def _stages(values: Any, cut: Cut) -> Any:
    """Return what a backbone's configuration says of its stages, each a layer: their names or some of their numbers."""
    if len(values or ()) == cut.length + 1:
        return values[: len(cut.kept) + 1]
    last = {f"stage{cut.length}": f"stage{len(cut.kept)}"}
    return values and [last.get(value, _count(value, cut)) for value in values]


def _count(value: Any, cut: Cut) -> Any:
    return len(cut.kept) if type(value) is int and value == cut.length else value


Outside = list[tuple[str, Any, dict[str, Any], list[Any]]]


def _outside(model: torch.nn.Module, stacks: tuple[Stack, ...]) -> Outside:
    """List everything outside the stacks: names, classes, settings, tensors."""
    inside = tuple(f"{stack.path}." for stack in stacks)
    found: Outside = []
    for name, module in model.named_modules():
        if f"{name}.".startswith(inside):
            continue
        tensors = (*module._parameters.items(), *module._buffers.items())
        shapes = [(key, None if value is None else tuple(value.shape)) for key, value in tensors]
        settings = dict(scalars(module))
        if hasattr(module, _CHOSEN):  # a backbone's, a property
            settings[_CHOSEN] = (tuple(getattr(module, _CHOSEN)), len(settings.pop("stage_names", ())))
        found.append((name, class_of(module), settings, shapes))
    return found


def _same_outside(full: Outside, short: Outside, cuts: Cuts, shares: bool) -> bool:
    """Compare what is outside the stacks; settings may count the layers that are left."""
    if len(full) != len(short):
        return False
    for (name, kind, settings, shapes), (other, its, new, made) in zip(full, short, strict=True):
        if (name, kind) != (other, its) or settings.keys() != new.keys():
            return False
        if shapes != made and not (shares and _have_shares(shapes, made, cuts)):
            return False
        if not all(
            _is_same_setting(key, value, new[key], cuts)
            or (shares and key == "in_features" and _is_share(value, new[key], cuts))
            for key, value in settings.items()
        ):
            return False
    return True


def _have_shares(shapes: list[Any], made: list[Any], cuts: Cuts) -> bool:
    """Say whether tensors differ only in sizes with a share for every layer (the head that reads ESM's attentions).

    Where such a tensor is in the graph, it has the wrong shape there, which is noticed.
    """
    if [(name, shape and len(shape)) for name, shape in shapes] != [
        (name, shape and len(shape)) for name, shape in made
    ]:
        return False
    sizes = (
        (size, its)
        for (_, a), (_, b) in zip(shapes, made, strict=True)
        for size, its in zip(a or (), b or (), strict=True)
    )
    return all(size == its or _is_share(size, its, cuts) for size, its in sizes)


def _is_share(before: Any, after: Any, cuts: Cuts) -> bool:
    """Say whether a size got smaller just as the layers got fewer."""
    return type(before) is int and any(before * len(cut.kept) == after * cut.length for cut in cuts)


def _is_same_setting(name: str, before: Any, after: Any, cuts: Cuts) -> bool:
    """Say whether a setting is the same, or says the same of fewer layers: their count, or something for each."""
    if before == after:
        return True
    if name == _CHOSEN:  # the states of the last layer alone, whose number is the count of layers
        chosen, its = before[0], after[0]
        return any({*chosen} <= {cut.length, -1} and {*its} <= {len(cut.kept), -1} for cut in cuts)
    if not isinstance(before, tuple):
        return bool(_DEPTH.search(name)) and any(_count(before, cut) == after for cut in cuts)
    if _DEPTH.search(name):
        return True
    if len({*before, *after}) == 1 and any(len(before) - cut.length == len(after) - len(cut.kept) for cut in cuts):
        return True  # the same for every layer, and what comes before them
    return any(len(before) == cut.length and cut.picks(before) == after for cut in cuts)


def _traced(stack: Stack, kept: tuple[int, ...]) -> TracedStack:
    numbers = {signature: number for number, signature in enumerate(dict.fromkeys(stack.signatures))}
    full = tuple(numbers[signature] for signature in stack.signatures)
    return TracedStack(stack.path, tuple(full[index] for index in kept), full)
