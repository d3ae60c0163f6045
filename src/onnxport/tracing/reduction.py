"""Choose the layers to trace, and the configuration that constructs a model with exactly those layers.

The reduced model is constructed from an edited configuration and compared with the full one: it must have the chosen
layers in order, and everything else unchanged. All settings that count layers are edited at once; if that changes more
than layers, they are tried one by one, and a setting that changes more is left as it was. A stack that no setting
shortens is traced in full.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, cast

from onnxport.loading.failures import construction_failures
from onnxport.tracing.layers import Stack, class_of, find_stacks, scalars, signatures_at

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

Build = Callable[["PreTrainedConfig"], "PreTrainedModel"]

_DEPTH = re.compile(r"(layers?|blocks?|depths?)$")
"""Settings that count layers: `num_hidden_layers`, `n_layer`, `encoder_layers`, `depths`."""
_LAYER_INDICES = re.compile(r"(indexes|indices|target_layers|layer_map)$")
"""Settings that list layer indices, such as `deepstack_visual_indexes`: the graph has an input or output for each."""
_OUT_INDICES = "out_indices"
"""Setting of backbones: indices of the hidden states that they return; 0 is the embeddings."""


@dataclass(frozen=True)
class TracedStack:
    """A stack of the full model and its traced layers.

    Attributes:
        path: name of the `ModuleList` in both models.
        traced: layer type (signature index) of each traced layer.
        full: layer type of each layer of the full model.
    """

    path: str
    traced: tuple[int, ...]
    full: tuple[int, ...]

    def represented_layers(self, position: int) -> tuple[int, ...]:
        """Return the indices of the full model's layers that a traced layer represents.

        Layer 0 is copied from the first traced layer, all others from the second traced layer of their type.
        """
        layer_type = self.traced[position]
        same = [index for index, other_type in enumerate(self.traced) if other_type == layer_type]
        full = [index for index, other_type in enumerate(self.full) if other_type == layer_type]
        if position != same[min(1, len(same) - 1)]:
            return (full[same.index(position)],)
        return tuple(index for index in full if index or not position)


@dataclass(frozen=True)
class Reduction:
    """The model to trace.

    Attributes:
        model: model with fake parameters, with fewer layers if possible.
        stacks: the shortened stacks; empty if all layers are traced.
        notes: reasons why the model, or a stack, is traced in full.
    """

    model: PreTrainedModel
    stacks: tuple[TracedStack, ...] = ()
    notes: tuple[str, ...] = field(default=())


class SettingPath(NamedTuple):
    """A setting of a configuration.

    Attributes:
        part: path of its sub-configuration, each name followed by a dot; empty for the configuration itself.
        name: name of the setting; empty for all lists with an entry per layer.
    """

    part: str
    name: str


@dataclass(frozen=True)
class Cut:
    """A configuration edit that removes layers.

    Attributes:
        length: number of layers in the stacks to shorten.
        kept: indices of the layers to keep.
        setting: the only setting to edit; None for all that count `length` layers.
        lists: whether lists with one entry per layer are reduced to the entries of the kept layers.
    """

    length: int
    kept: tuple[int, ...]
    setting: SettingPath | None = None
    lists: bool = True

    def pick(self, values: Sequence[object]) -> Sequence[object]:
        """Return the entries of the kept layers, in a sequence of the same type."""
        return type(values)(values[index] for index in self.kept)  # type: ignore[call-arg]


Cuts = tuple[Cut, ...]


def reduce(full: PreTrainedModel, build: Build, unreduced: frozenset[str] = frozenset()) -> Reduction:
    """Construct the smallest model whose layers represent all layers of the full model.

    Args:
        full: the model with all layers; only the shapes of its parameters are used.
        build: constructs a model with fake parameters from a configuration.
        unreduced: names of stacks that keep all layers.
    """
    stacks = tuple(s for s in find_stacks(full) if s.path not in unreduced and len(s.representatives()) < len(s))
    if not stacks:
        return Reduction(build(full.config))
    search = _Search(full, build, stacks)
    reduced, reason = search.attempt(tuple(search.at_once()))
    if reduced is None:
        reduced = search.one_by_one() or search.attempt(tuple(search.at_once()), shares=True)[0]
    if reduced is None:
        return Reduction(build(full.config), notes=(f"traced at full depth: {reason}",))
    model, kept = reduced
    short = tuple(_traced(stack, kept[stack.path]) for stack in stacks if len(kept[stack.path]) < len(stack))
    complete = [stack.path for stack in stacks if len(kept[stack.path]) == len(stack)]
    notes = (f"some repeated layers weren't left out: all of {', '.join(complete)} are traced",) if complete else ()
    return Reduction(model, short, notes)


Reduced = tuple["PreTrainedModel", dict[str, tuple[int, ...]]]
"""A model, and the indices of its layers by stack."""


@dataclass(frozen=True)
class _Search:
    """Search for configuration edits that shorten stacks and change nothing else."""

    full: PreTrainedModel
    build: Build
    stacks: tuple[Stack, ...]

    def at_once(self) -> Iterator[Cut]:
        """Yield the cuts that shorten all stacks, one for each length."""
        for length, representatives in self._representatives().items():
            kept = tuple(sorted({index for chosen in representatives for index in chosen}))
            if len(kept) < length:
                yield Cut(length, kept)

    def one_by_one(self) -> Reduced | None:
        """Shorten stacks one setting at a time, to their representatives or to a prefix."""
        best, accepted, tried = None, Cuts(), set()
        for length, representatives in sorted(self._representatives().items(), reverse=True):
            prefixes = [tuple(range(max(chosen) + 1)) for chosen in representatives]
            choices = [chosen for chosen in dict.fromkeys((*representatives, *prefixes)) if len(chosen) < length]
            for setting in _depth_settings(self.full.config, length):
                cuts = (Cut(length, kept, setting, lists) for kept in choices for lists in (True, False))
                for cut in cuts:
                    edited = repr(shortened(self.full.config, (*accepted, cut)).to_dict())
                    reduced = None if edited in tried else self.attempt((*accepted, cut))[0]
                    tried.add(edited)
                    if reduced is not None and _size(reduced) < (_size(best) if best else self._size()):
                        best, accepted = reduced, (*accepted, cut)
                        break
        return best

    def attempt(self, cuts: Cuts, *, shares: bool = False) -> tuple[Reduced | None, str]:
        """Construct the model with the kept layers; return None and the reason if anything else differs.

        Args:
            cuts: the edits.
            shares: whether sizes outside the layers may shrink in proportion to the number of layers.
        """
        if not cuts:
            return None, "its stacks of equal length have no layers to leave out in common"
        try:
            model = self.build(shortened(self.full.config, cuts))
        except construction_failures() as error:
            counts = ", ".join(f"{len(cut.kept)} of {cut.length}" for cut in cuts)
            return None, f"it can't be constructed with {counts} layers ({type(error).__name__}: {error})"
        kept = {}
        for stack in self.stacks:
            layers = _kept_layers(model, stack, cuts)
            if layers is None:
                representatives = next((list(cut.kept) for cut in cuts if cut.length == len(stack)), "all")
                return None, f"{stack.path} can't be constructed with the layers {representatives} alone"
            kept[stack.path] = layers
        if all(len(kept[stack.path]) == len(stack) for stack in self.stacks):
            return None, "no setting determines its number of layers"
        if not _same_outside(
            _modules_outside(self.full, self.stacks), _modules_outside(model, self.stacks), cuts, shares
        ):
            return None, "the settings of its depth affect more than the number of layers"
        return (model, kept), ""

    def _representatives(self) -> dict[int, list[tuple[int, ...]]]:
        representatives: dict[int, list[tuple[int, ...]]] = {}
        for stack in self.stacks:
            representatives.setdefault(len(stack), []).append(stack.representatives())
        return representatives

    def _size(self) -> int:
        return sum(len(stack) for stack in self.stacks)


def _size(reduced: Reduced) -> int:
    return sum(map(len, reduced[1].values()))


def _kept_layers(model: PreTrainedModel, stack: Stack, cuts: Cuts) -> tuple[int, ...] | None:
    """Return the layers of a stack in a model: all, or the kept ones if they represent all; None for any others."""
    signatures = signatures_at(model, stack.path, stack.lists)
    for kept in (tuple(range(len(stack))), *(cut.kept for cut in cuts if cut.length == len(stack))):
        if signatures == tuple(stack.signatures[index] for index in kept) and {*stack.representatives()} <= {*kept}:
            return kept
    return None


def _depth_settings(config: PreTrainedConfig, length: int, part: str = "") -> Iterator[SettingPath]:
    """Yield the settings that count `length` layers; the last, without a name, is all lists with an entry per layer."""
    from transformers import PreTrainedConfig

    has_list = False
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            yield from _depth_settings(value, length, f"{part}{name}.")
        elif _DEPTH.search(name) and (value == length or (isinstance(value, (list, tuple)) and length in value)):
            yield SettingPath(part, name)
        has_list = has_list or (isinstance(value, (list, tuple)) and len(value) == length)
    if has_list:
        yield SettingPath(part, "")


def shortened(config: PreTrainedConfig, cuts: Cuts) -> PreTrainedConfig:
    """Copy a configuration with fewer layers.

    Args:
        config: the full configuration.
        cuts: the edits.

    Returns:
        A copy in which settings that count layers have the new count, and lists with one entry per layer have only the
        entries of the kept layers, also in sub-configurations.
    """
    short = copy.deepcopy(config)
    for cut in cuts:
        _shorten(short, cut)
    return short


def _shorten(config: PreTrainedConfig, cut: Cut, part: str = "") -> None:
    from transformers import PreTrainedConfig

    for name, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            _shorten(value, cut, f"{part}{name}.")
        elif name in ("_out_indices", "_out_features", "stage_names"):
            vars(config)[name] = _shorten_stages(value, cut)
        elif _LAYER_INDICES.search(name) or (cut.setting is not None and cut.setting.part != part):
            continue
        elif isinstance(value, (list, tuple)) and len(value) == cut.length and cut.lists:
            vars(config)[name] = cut.pick(value)
        elif not _DEPTH.search(name) or (cut.setting is not None and cut.setting.name != name):
            continue
        elif isinstance(value, (list, tuple)):
            vars(config)[name] = type(value)(_new_count(item, cut) for item in value)
        else:
            vars(config)[name] = _new_count(value, cut)


def _shorten_stages(values: Sequence[str | int] | None, cut: Cut) -> Sequence[object] | None:
    """Return the stage names or indices of a backbone, where each stage is a layer, for fewer layers."""
    if not values:
        return values
    if len(values) == cut.length + 1:
        return values[: len(cut.kept) + 1]
    last = {f"stage{cut.length}": f"stage{len(cut.kept)}"}
    return [last.get(str(value), _new_count(value, cut)) for value in values]


def _new_count(value: object, cut: Cut) -> object:
    return len(cut.kept) if type(value) is int and value == cut.length else value


@dataclass(frozen=True)
class _OutsideModule:
    """A module outside the stacks.

    Attributes:
        name: name of the module.
        class_id: identity of its class, see `layers.class_of`.
        settings: scalar attributes.
        shapes: name and shape of each parameter and buffer; the shape is None if the parameter is None.
    """

    name: str
    class_id: tuple[object, ...]
    settings: dict[str, object]
    shapes: list[tuple[str, tuple[int, ...] | None]]


def _modules_outside(model: torch.nn.Module, stacks: tuple[Stack, ...]) -> list[_OutsideModule]:
    """Return all modules outside the stacks."""
    inside = tuple(f"{stack.path}." for stack in stacks)
    outside: list[_OutsideModule] = []
    for name, module in model.named_modules():
        if f"{name}.".startswith(inside):
            continue
        tensors = (*module._parameters.items(), *module._buffers.items())
        shapes = [(key, None if value is None else tuple(value.shape)) for key, value in tensors]
        settings: dict[str, object] = dict(scalars(module))
        if hasattr(module, _OUT_INDICES):  # a property of backbones
            stages = cast("tuple[str, ...]", settings.pop("stage_names", ()))
            settings[_OUT_INDICES] = (tuple(getattr(module, _OUT_INDICES)), len(stages))
        outside.append(_OutsideModule(name, class_of(module), settings, shapes))
    return outside


def _same_outside(full: list[_OutsideModule], short: list[_OutsideModule], cuts: Cuts, shares: bool) -> bool:
    """Return whether two models are equal outside the stacks, except settings that count the remaining layers."""
    if len(full) != len(short):
        return False
    for before, after in zip(full, short, strict=True):
        if (before.name, before.class_id) != (after.name, after.class_id):
            return False
        if before.settings.keys() != after.settings.keys():
            return False
        if before.shapes != after.shapes and not (shares and _have_proportional_shapes(before, after, cuts)):
            return False
        if not all(
            _is_same_setting(key, value, after.settings[key], cuts)
            or (shares and key == "in_features" and _is_proportional(value, after.settings[key], cuts))
            for key, value in before.settings.items()
        ):
            return False
    return True


def _have_proportional_shapes(before: _OutsideModule, after: _OutsideModule, cuts: Cuts) -> bool:
    """Return whether shapes differ only in sizes proportional to the number of layers (ESM's contact head).

    If the graph uses such a tensor, its shape is wrong there, which is detected later.
    """
    ranks = [[(name, shape and len(shape)) for name, shape in side.shapes] for side in (before, after)]
    if ranks[0] != ranks[1]:
        return False
    sizes = (
        (size, other)
        for (_, a), (_, b) in zip(before.shapes, after.shapes, strict=True)
        for size, other in zip(a or (), b or (), strict=True)
    )
    return all(size == other or _is_proportional(size, other, cuts) for size, other in sizes)


def _is_proportional(before: object, after: object, cuts: Cuts) -> bool:
    """Return whether a size shrank in proportion to the number of layers."""
    if type(before) is not int or not isinstance(after, int):
        return False
    return any(before * len(cut.kept) == after * cut.length for cut in cuts)


def _is_same_setting(name: str, before: object, after: object, cuts: Cuts) -> bool:
    """Return whether a setting is unchanged, or counts the remaining layers, or has one entry for each of them."""
    if before == after:
        return True
    if name == _OUT_INDICES:  # only the last hidden states, whose index is the number of layers
        indices, others = (cast("tuple[tuple[int, ...], int]", side)[0] for side in (before, after))
        return any({*indices} <= {cut.length, -1} and {*others} <= {len(cut.kept), -1} for cut in cuts)
    if not isinstance(before, tuple) or not isinstance(after, tuple):
        return bool(_DEPTH.search(name)) and any(_new_count(before, cut) == after for cut in cuts)
    if _DEPTH.search(name):
        return True
    if len({*before, *after}) == 1 and any(len(before) - cut.length == len(after) - len(cut.kept) for cut in cuts):
        return True  # the same value for every layer and the embeddings
    return any(len(before) == cut.length and cut.pick(before) == after for cut in cuts)


def _traced(stack: Stack, kept: tuple[int, ...]) -> TracedStack:
    types = {signature: index for index, signature in enumerate(dict.fromkeys(stack.signatures))}
    full = tuple(types[signature] for signature in stack.signatures)
    return TracedStack(stack.path, tuple(full[index] for index in kept), full)
