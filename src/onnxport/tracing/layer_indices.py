"""Detect code that decides by a layer's index: then layers that aren't traced may compute something else.

Layers are compared by their settings, where a decision by index in forward doesn't show. So while a model with few
layers is traced, the indices that layers keep, and those that a loop over layers counts with, are integers that carry
the indices of the layers of the full model that they represent. A comparison that is the same for all of these is
allowed; any other, and any arithmetic, is a decision. So is iterating over a list in the configuration with an item for
each layer: it has those of the traced layers alone.
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
from onnxport.tracing.layers import is_number

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

    from onnxport.tracing.reduction import TracedStack


@dataclass
class Decisions:
    """Collect where code decided by the index of a layer.

    Attributes:
        locations: function and line.
        stacks: names of the stacks whose layers these are.
    """

    locations: list[str] = field(default_factory=list)
    stacks: set[str] = field(default_factory=set)

    def note(self, stack: str, caller: FrameType) -> None:
        """Record a decision.

        Raises:
            LayerIndexError: always; the trace doesn't represent the other layers.
        """
        self.locations.append(f"{caller.f_code.co_qualname}, line {caller.f_lineno}")
        self.stacks.add(stack)
        raise LayerIndexError(self.locations[-1])


class LayerIndexError(Exception):
    """Stop a trace that doesn't represent the layers that are left out."""


@dataclass(frozen=True)
class _Watch:
    """Hold what an index belongs to.

    Attributes:
        stack: name of the stack of layers.
        files: source files whose code is watched.
        represented: indices in the full model that the index represents.
        decisions: where decisions are recorded.
    """

    stack: str
    files: frozenset[str]
    represented: tuple[int, ...]
    decisions: Decisions


class _Watched(int):
    """A layer index that records operations on it in the watched files."""

    watch: _Watch

    def __hash__(self) -> int:
        return int.__hash__(self)


def _watched(value: int, watch: _Watch) -> _Watched:
    index = _Watched(value)
    index.watch = watch
    return index


def _noting(name: str, *, compares: bool) -> Callable[..., Any]:
    original = getattr(int, name)

    def operate(self: _Watched, *others: Any) -> Any:
        result = original(self, *others)
        watch, caller = self.watch, sys._getframe(1)
        is_same = compares and all(original(index, *others) is result for index in watch.represented)
        if not is_same and caller.f_code.co_filename in watch.files and _is_operator(caller):
            watch.decisions.note(watch.stack, caller)
        return result

    return operate


def _is_operator(caller: FrameType) -> bool:
    """Return whether a frame is at an operator: a dictionary look-up compares the index, too."""
    return dis.opname[caller.f_code.co_code[caller.f_lasti]] not in _PASSING_ON


_PASSING_ON = ("CALL", "PRECALL", "CALL_KW", "CALL_FUNCTION_EX", "BINARY_SUBSCR", "STORE_SUBSCR")
"""Instructions that pass an index on."""

for _name in ("lt", "le", "gt", "ge", "eq", "ne", "bool"):
    setattr(_Watched, f"__{_name}__", _noting(f"__{_name}__", compares=True))
for _name in ("add", "sub", "mul", "mod", "floordiv", "truediv", "pow"):
    for _side in ("", "r"):
        setattr(_Watched, f"__{_side}{_name}__", _noting(f"__{_side}{_name}__", compares=False))


class _Listed:
    """Record that watched code iterates over a list."""

    watch: _Watch

    def __iter__(self) -> Iterator[Any]:
        caller = sys._getframe(1)
        if caller.f_code.co_filename in self.watch.files:
            self.watch.decisions.note(self.watch.stack, caller)
        return super().__iter__()  # type: ignore[misc, no-any-return]


class _WatchedList(_Listed, list[Any]):
    pass


class _WatchedTuple(_Listed, tuple[Any, ...]):
    pass


@contextmanager
def watched_layer_indices(model: torch.nn.Module, stacks: tuple[TracedStack, ...]) -> Iterator[Decisions]:
    """Watch the indices of layers in a block.

    Args:
        model: the model with the layers.
        stacks: the stacks of layers, and the layers of the full model that each represents.

    Yields:
        Where code decided by an index, filled as it runs. Passing an index on, as to a cache, is no decision.
    """
    decisions = Decisions()
    watches: dict[int, tuple[int, _Watch]] = {}
    changes: list[Replacement] = []  # of one attribute that two stacks have, the first one counts
    files = frozenset(str(getattr(module, "__file__", "")) for module in _sources(model))
    for stack in stacks:
        layers = list(model.get_submodule(stack.path)._modules.values())
        for position, layer in enumerate(layers[: len(stack.traced)]):
            if layer is None:
                continue
            watch = _Watch(stack.path, files, stack.stands_for(position), decisions)
            watches[id(layer)] = (position, watch)
            changes += _watch_own(layer, position, watch)
        changes += _watch_lists(model.config, _Watch(stack.path, files, (), decisions), len(stack.traced))
    sources = [module for module in _sources(model) if not hasattr(module, "enumerate")] if watches else []
    changes += [Replacement(module, "enumerate", _counting(watches)) for module in sources]
    first = {(id(change.owner), change.name): change for change in reversed(changes)}
    with patching(*first.values()):
        yield decisions


def _sources(model: torch.nn.Module) -> list[ModuleType]:
    """List the modules with the model's own code."""
    parts = [*model.modules(), *_configurations(model.config)]
    names = dict.fromkeys(type(part).__module__ for part in parts)
    return [sys.modules[name] for name in names if name.split(".")[0] != "torch" and name in sys.modules]


def _configurations(config: PreTrainedConfig) -> list[PreTrainedConfig]:
    """List a configuration and those inside it."""
    from transformers import PreTrainedConfig

    inner = (value for value in vars(config).values() if isinstance(value, PreTrainedConfig))
    return [config, *(found for value in inner for found in _configurations(value))]


def _watch_lists(config: PreTrainedConfig, watch: _Watch, length: int) -> list[Replacement]:
    """Return changes that watch the lists of a configuration with an item for each layer."""
    changes = []
    for part in _configurations(config):
        for name, value in list(vars(part).items()):
            if type(value) in (list, tuple) and len(value) == length and all(type(v) in (int, float) for v in value):
                listed = _WatchedList(value) if type(value) is list else _WatchedTuple(value)
                listed.watch = watch
                changes.append(Replacement(part, name, listed))
    return changes


def _watch_own(layer: torch.nn.Module, position: int, watch: _Watch) -> list[Replacement]:
    """Return changes that watch the indices that a layer and its parts keep."""
    changes = []
    for module in layer.modules():
        for name, value in list(vars(module).items()):
            if type(value) is int and is_number(name):
                changes.append(Replacement(module, name, _watched(value, _moved(watch, value - position))))
    return changes


def _moved(watch: _Watch, offset: int) -> _Watch:
    """Return a watch for indices that start at an offset."""
    represented = tuple(index + offset for index in watch.represented)
    return _Watch(watch.stack, watch.files, represented, watch.decisions) if offset else watch


def _counting(watches: dict[int, tuple[int, _Watch]]) -> Callable[..., Iterator[tuple[int, Any]]]:
    """Return an `enumerate` whose indices are watched where it counts layers, alone or zipped with other items."""

    def counted(iterable: Any, start: int = 0) -> Iterator[tuple[int, Any]]:
        for index, item in builtins.enumerate(iterable, start):
            parts = item if isinstance(item, tuple) else (item,)
            position, watch = next((watches[id(part)] for part in parts if id(part) in watches), (0, None))
            yield (index if watch is None else _watched(index, _moved(watch, index - position))), item

    return counted
