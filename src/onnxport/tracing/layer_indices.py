"""Detect code that branches on a layer index: layers that aren't traced may then compute something else.

Layers are compared by their settings, which don't reveal a branch on the index in forward. While a reduced model is
traced, the indices that layers store, and those that a loop over layers enumerates, are therefore integers that carry
the indices of the full model's layers that they represent. A comparison with the same result for all of these is
allowed; any other comparison, and any arithmetic, is a decision. Iterating over a configuration list with one entry per
layer is a decision too, because the list has only the entries of the traced layers; so is taking some layers of a stack
by a slice, because its bounds count the layers of the full model.
"""

from __future__ import annotations

import builtins
import dis
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any

from onnxport.patching.patch import Replacement
from onnxport.patching.scope import patching
from onnxport.tracing.layers import is_index

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

    from onnxport.tracing.reduction import TracedStack


@dataclass
class Decisions:
    """Code locations that depend on a layer index.

    Attributes:
        locations: function and line.
        stacks: names of the stacks that the layers belong to.
    """

    locations: list[str] = field(default_factory=list)
    stacks: set[str] = field(default_factory=set)

    def note(self, stack: str, caller: FrameType) -> None:
        """Record a decision.

        Raises:
            LayerIndexError: always, because the trace doesn't represent the other layers.
        """
        self.locations.append(f"{caller.f_code.co_qualname}, line {caller.f_lineno}")
        self.stacks.add(stack)
        raise LayerIndexError(self.locations[-1])


class LayerIndexError(Exception):
    """Abort a trace that doesn't represent the omitted layers."""


@dataclass(frozen=True)
class _Watch:
    """What is recorded about the uses of a layer index.

    Attributes:
        stack: name of the stack of layers.
        files: source files whose code is watched.
        represented: layer indices in the full model that the index represents.
        decisions: record of the decisions.
    """

    stack: str
    files: frozenset[str]
    represented: tuple[int, ...]
    decisions: Decisions


class _WatchedIndex(int):
    """A layer index that records operations on it by code in the watched files."""

    watch: _Watch

    def __hash__(self) -> int:
        return int.__hash__(self)


def _watch_index(value: int, watch: _Watch) -> _WatchedIndex:
    index = _WatchedIndex(value)
    index.watch = watch
    return index


def _recording(name: str, *, compares: bool) -> Callable[..., Any]:
    original = getattr(int, name)

    def operate(self: _WatchedIndex, *others: Any) -> Any:
        result = original(self, *others)
        watch, caller = self.watch, sys._getframe(1)
        is_same = compares and all(original(index, *others) is result for index in watch.represented)
        if not is_same and caller.f_code.co_filename in watch.files and _is_operator(caller):
            watch.decisions.note(watch.stack, caller)
        return result

    return operate


def _is_operator(caller: FrameType) -> bool:
    """Return whether a frame is executing an operator; a dictionary lookup compares the index, too."""
    return dis.opname[caller.f_code.co_code[caller.f_lasti]] not in _PASSING_ON


_PASSING_ON = ("CALL", "PRECALL", "CALL_KW", "CALL_FUNCTION_EX", "BINARY_SUBSCR", "STORE_SUBSCR")
"""Bytecode instructions that pass an index on without a decision."""

for _name in ("lt", "le", "gt", "ge", "eq", "ne", "bool"):
    setattr(_WatchedIndex, f"__{_name}__", _recording(f"__{_name}__", compares=True))
for _name in ("add", "sub", "mul", "mod", "floordiv", "truediv", "pow"):
    for _side in ("", "r"):
        setattr(_WatchedIndex, f"__{_side}{_name}__", _recording(f"__{_side}{_name}__", compares=False))


class _WatchedIteration:
    """Record that watched code iterates over a list."""

    watch: _Watch

    def __iter__(self) -> Iterator[Any]:
        caller = sys._getframe(1)
        if caller.f_code.co_filename in self.watch.files:
            self.watch.decisions.note(self.watch.stack, caller)
        return super().__iter__()  # type: ignore[misc, no-any-return]


class _WatchedList(_WatchedIteration, list[Any]):
    pass


class _WatchedTuple(_WatchedIteration, tuple[Any, ...]):
    pass


@contextmanager
def watched_layer_indices(model: torch.nn.Module, stacks: tuple[TracedStack, ...]) -> Iterator[Decisions]:
    """Watch the layer indices of a model within the block.

    Args:
        model: the reduced model.
        stacks: its stacks, with the layers of the full model that each layer represents.

    Yields:
        The decisions by index, recorded while the code runs. Passing an index on, e.g. to a cache, isn't a decision.
    """
    decisions = Decisions()
    watches: dict[int, tuple[int, _Watch]] = {}
    sliced: dict[int, tuple[int, _Watch]] = {}
    changes: list[Replacement] = []  # for an attribute that two stacks share, the first change counts
    files = frozenset(str(getattr(module, "__file__", "")) for module in _sources(model))
    for stack in stacks:
        module_list = model.get_submodule(stack.path)
        sliced[id(module_list)] = (len(stack.full), _Watch(stack.path, files, (), decisions))
        layers = list(module_list._modules.values())
        for position, layer in enumerate(layers[: len(stack.traced)]):
            if layer is None:
                continue
            watch = _Watch(stack.path, files, stack.represented_layers(position), decisions)
            watches[id(layer)] = (position, watch)
            changes += _watch_attributes(layer, position, watch)
        changes += _watch_lists(model.config, _Watch(stack.path, files, (), decisions), len(stack.traced))
    sources = [module for module in _sources(model) if not hasattr(module, "enumerate")] if watches else []
    changes += [Replacement(module, "enumerate", _watched_enumerate(watches)) for module in sources]
    changes.append(_watched_slices(sliced))
    first = {(id(change.owner), change.name): change for change in reversed(changes)}
    with patching(*first.values()):
        yield decisions


def _sources(model: torch.nn.Module) -> list[ModuleType]:
    """List the Python modules that define the model and its configuration."""
    parts = [*model.modules(), *_configurations(model.config)]
    names = dict.fromkeys(type(part).__module__ for part in parts)
    return [sys.modules[name] for name in names if name.split(".")[0] != "torch" and name in sys.modules]


def _configurations(config: PreTrainedConfig) -> list[PreTrainedConfig]:
    """List a configuration and its sub-configurations."""
    from transformers import PreTrainedConfig

    inner = (value for value in vars(config).values() if isinstance(value, PreTrainedConfig))
    return [config, *(nested for value in inner for nested in _configurations(value))]


def _watch_lists(config: PreTrainedConfig, watch: _Watch, length: int) -> list[Replacement]:
    """Return replacements that watch a configuration's lists with one entry per layer."""
    changes = []
    for part in _configurations(config):
        for name, value in list(vars(part).items()):
            if type(value) in (list, tuple) and len(value) == length and all(type(v) in (int, float) for v in value):
                listed = _WatchedList(value) if type(value) is list else _WatchedTuple(value)
                listed.watch = watch
                changes.append(Replacement(part, name, listed))
    return changes


def _watch_attributes(layer: torch.nn.Module, position: int, watch: _Watch) -> list[Replacement]:
    """Return replacements that watch the indices stored in a layer and its submodules."""
    changes = []
    for module in layer.modules():
        for name, value in list(vars(module).items()):
            if type(value) is int and is_index(name):
                changes.append(Replacement(module, name, _watch_index(value, _shifted(watch, value - position))))
    return changes


def _watched_slices(stacks: dict[int, tuple[int, _Watch]]) -> Replacement:
    """Return a replacement that watches slices of stacks, given with the number of their layers in the full model."""
    import torch

    original = torch.nn.ModuleList.__getitem__

    def getitem(self: torch.nn.ModuleList, key: Any) -> Any:
        count, watch = stacks.get(id(self), (0, None))
        if watch is not None and isinstance(key, slice):
            is_whole = not key.start and key.step is None and (key.stop in (None, len(self)) or key.stop >= count)
            caller = sys._getframe(1)
            if not is_whole and caller.f_code.co_filename in watch.files:
                watch.decisions.note(watch.stack, caller)
        return original(self, key)

    return Replacement(torch.nn.ModuleList, "__getitem__", getitem)


def _shifted(watch: _Watch, offset: int) -> _Watch:
    """Return a watch for indices that are shifted by an offset."""
    represented = tuple(index + offset for index in watch.represented)
    return _Watch(watch.stack, watch.files, represented, watch.decisions) if offset else watch


def _watched_enumerate(watches: dict[int, tuple[int, _Watch]]) -> Callable[..., Iterator[tuple[int, Any]]]:
    """Return an `enumerate` whose indices are watched if it enumerates layers, alone or zipped with other items."""

    def counted(iterable: Any, start: int = 0) -> Iterator[tuple[int, Any]]:
        for index, item in builtins.enumerate(iterable, start):
            parts = item if isinstance(item, tuple) else (item,)
            position, watch = next((watches[id(part)] for part in parts if id(part) in watches), (0, None))
            yield (index if watch is None else _watch_index(index, _shifted(watch, index - position))), item

    return counted
