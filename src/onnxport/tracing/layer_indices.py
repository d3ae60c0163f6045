"""Detect code that depends on the layer index, so that layers which aren't traced may compute something else.

Layers are grouped by signature, which doesn't show what depends on the layer index at run time. While a model with few
layers is traced, the indices that layers store, and those of loops over layers, are integers that know the layers of
the full model that they represent. A comparison with the same result for all of them is accepted; other comparisons,
and arithmetic, are recorded. So is iterating over a setting that lists a number per layer, since the reduced
configuration only has those of the traced layers.
"""

from __future__ import annotations

import builtins
import dis
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any

from onnxport.tracing.layers import is_index

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

    from onnxport.tracing.reduction import TracedStack


@dataclass
class Decisions:
    """The code that depends on a layer index.

    Attributes:
        locations: function and line of each occurrence.
        stacks: names of the stacks of these layers.
    """

    locations: list[str] = field(default_factory=list)
    stacks: set[str] = field(default_factory=set)

    def record(self, stack: str, caller: FrameType) -> None:
        """Record a location and abort the trace.

        Raises:
            LayerIndexError: always.
        """
        self.locations.append(f"{caller.f_code.co_qualname}, line {caller.f_lineno}")
        self.stacks.add(stack)
        raise LayerIndexError(self.locations[-1])


class LayerIndexError(Exception):
    """Abort a trace whose layers don't represent those of the full model."""


@dataclass(frozen=True)
class _Watch:
    """The layers that an index represents.

    Attributes:
        stack: name of the stack.
        files: files whose code is watched.
        stands_for: indices in the full model.
        decisions: where to record occurrences.
    """

    stack: str
    files: frozenset[str]
    stands_for: tuple[int, ...]
    decisions: Decisions


class _Watched(int):
    """An integer that records operations by watched code."""

    watch: _Watch

    def __hash__(self) -> int:
        return int.__hash__(self)


def _watched(value: int, watch: _Watch) -> _Watched:
    index = _Watched(value)
    index.watch = watch
    return index


def _recording_operation(name: str, *, compares: bool) -> Callable[..., object]:
    original = getattr(int, name)

    def operate(self: _Watched, *others: object) -> object:
        result = original(self, *others)
        watch, caller = self.watch, sys._getframe(1)
        is_same = compares and all(original(index, *others) is result for index in watch.stands_for)
        if not is_same and caller.f_code.co_filename in watch.files and _is_operator(caller):
            watch.decisions.record(watch.stack, caller)
        return result

    return operate


def _is_operator(caller: FrameType) -> bool:
    """Return whether a frame executes an operator; dictionary look-ups compare their keys too."""
    return dis.opname[caller.f_code.co_code[caller.f_lasti]] not in _PASSING_OPCODES


_PASSING_OPCODES = ("CALL", "PRECALL", "CALL_KW", "CALL_FUNCTION_EX", "BINARY_SUBSCR", "STORE_SUBSCR")
"""Instructions that pass an index on."""

for _name in ("lt", "le", "gt", "ge", "eq", "ne", "bool"):
    setattr(_Watched, f"__{_name}__", _recording_operation(f"__{_name}__", compares=True))
for _name in ("add", "sub", "mul", "mod", "floordiv", "truediv", "pow"):
    for _side in ("", "r"):
        setattr(_Watched, f"__{_side}{_name}__", _recording_operation(f"__{_side}{_name}__", compares=False))


class _WatchedSequence:
    """Record iterations by watched code."""

    watch: _Watch

    def __iter__(self) -> Iterator[Any]:
        caller = sys._getframe(1)
        if caller.f_code.co_filename in self.watch.files:
            self.watch.decisions.record(self.watch.stack, caller)
        return super().__iter__()  # type: ignore[misc, no-any-return]


class _WatchedList(_WatchedSequence, list[Any]):
    pass


class _WatchedTuple(_WatchedSequence, tuple[Any, ...]):
    pass


@contextmanager
def watched_layer_indices(model: torch.nn.Module, stacks: tuple[TracedStack, ...]) -> Iterator[Decisions]:
    """Watch the layer indices of a model in a block.

    Args:
        model: the reduced model.
        stacks: its traced stacks.

    Yields:
        The recorded locations, updated while the model runs. Passing an index on, as to a cache, isn't recorded.
    """
    decisions = Decisions()
    watches: dict[int, _WatchedLayer] = {}
    replaced: list[_Replaced] = []
    files = frozenset(str(getattr(module, "__file__", "")) for module in _sources(model))
    for stack in stacks:
        layers = list(model.get_submodule(stack.path)._modules.values())
        for position, layer in enumerate(layers[: len(stack.traced)]):
            if layer is None:
                continue
            watch = _Watch(stack.path, files, stack.stands_for(position), decisions)
            watches[id(layer)] = _WatchedLayer(position, watch)
            replaced += _watch_attributes(layer, position, watch)
        replaced += _watch_lists(model.config, _Watch(stack.path, files, (), decisions), len(stack.traced))
    sources = [module for module in _sources(model) if not hasattr(module, "enumerate")] if watches else []
    try:
        for module in sources:
            module.enumerate = _counting(watches)  # type: ignore[attr-defined]
        yield decisions
    finally:
        for module in sources:
            del module.enumerate  # type: ignore[attr-defined]
        for item in reversed(replaced):
            vars(item.owner)[item.name] = item.value


@dataclass(frozen=True)
class _WatchedLayer:
    """A traced layer: its index in the reduced model, and the layers that it represents."""

    position: int
    watch: _Watch


@dataclass(frozen=True)
class _Replaced:
    """An attribute that was replaced, with its original value."""

    owner: object
    name: str
    value: object


def _sources(model: torch.nn.Module) -> list[ModuleType]:
    """Return the modules with the model's code, and that of its configurations."""
    parts = [*model.modules(), *_configs(model.config)]
    names = dict.fromkeys(type(part).__module__ for part in parts)
    return [sys.modules[name] for name in names if name.split(".")[0] != "torch" and name in sys.modules]


def _configs(config: PreTrainedConfig) -> list[PreTrainedConfig]:
    """Return a configuration and its sub-configurations."""
    from transformers import PreTrainedConfig

    inner = (value for value in vars(config).values() if isinstance(value, PreTrainedConfig))
    return [config, *(found for value in inner for found in _configs(value))]


def _watch_lists(config: PreTrainedConfig, watch: _Watch, length: int) -> list[_Replaced]:
    """Watch the settings that list a number per layer; returns the originals."""
    replaced = []
    for part in _configs(config):
        for name, value in list(vars(part).items()):
            if type(value) in (list, tuple) and len(value) == length and all(type(v) in (int, float) for v in value):
                listed = _WatchedList(value) if type(value) is list else _WatchedTuple(value)
                listed.watch = watch
                vars(part)[name] = listed
                replaced.append(_Replaced(part, name, value))
    return replaced


def _watch_attributes(layer: torch.nn.Module, position: int, watch: _Watch) -> list[_Replaced]:
    """Watch the layer indices that a layer and its submodules store; returns the originals."""
    replaced = []
    for module in layer.modules():
        for name, value in list(vars(module).items()):
            if type(value) is int and is_index(name):
                setattr(module, name, _watched(value, _with_offset(watch, value - position)))
                replaced.append(_Replaced(module, name, value))
    return replaced


def _with_offset(watch: _Watch, offset: int) -> _Watch:
    """Return a watch for indices with another first index."""
    indices = tuple(index + offset for index in watch.stands_for)
    return _Watch(watch.stack, watch.files, indices, watch.decisions) if offset else watch


def _counting(watches: dict[int, _WatchedLayer]) -> Callable[..., Iterator[tuple[int, object]]]:
    """Return an `enumerate` whose indices are watched if the items are layers, or tuples with a layer."""

    def counted(iterable: Iterable[object], start: int = 0) -> Iterator[tuple[int, object]]:
        for index, item in builtins.enumerate(iterable, start):
            parts = item if isinstance(item, tuple) else (item,)
            layer = next((watches[id(part)] for part in parts if id(part) in watches), None)
            if layer is not None:
                index = _watched(index, _with_offset(layer.watch, index - layer.position))
            yield index, item

    return counted
