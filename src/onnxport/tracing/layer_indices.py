"""Notice when code decides by a layer's number: then layers that aren't traced may compute something else.

Layers are taken for alike by their settings; what is decided by a number while the model runs doesn't show there. While
a model with few layers is traced, the numbers that layers keep, and those that a loop over layers counts with, are
integers that know for which layers of the full model theirs stands. A comparison that has the same answer for all of
them is no matter; any other, and any calculation, is. So is going through a list in the configuration that has a number
for each layer: it has those of the traced layers alone.
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

from onnxport.tracing.layers import is_number

if TYPE_CHECKING:
    import torch

    from onnxport.tracing.reduction import TracedStack


@dataclass
class Decisions:
    """Collect where code decided by the number of a layer.

    Attributes:
        places: function and line.
        stacks: names of the stacks whose layers these are.
    """

    places: list[str] = field(default_factory=list)
    stacks: set[str] = field(default_factory=set)

    def note(self, stack: str, caller: FrameType) -> None:
        """Note where a decision was made.

        Raises:
            LayerIndexError: always; what is traced stands for nothing.
        """
        self.places.append(f"{caller.f_code.co_qualname}, line {caller.f_lineno}")
        self.stacks.add(stack)
        raise LayerIndexError(self.places[-1])


class LayerIndexError(Exception):
    """Stop a trace that stands for nothing."""


@dataclass(frozen=True)
class _Watch:
    """Say whose a number is: the stack, the files whose code is watched, the numbers that it stands for."""

    stack: str
    files: frozenset[str]
    stands_for: tuple[int, ...]
    decisions: Decisions


class _Watched(int):
    """An integer that notes operations in the files that it is told."""

    watch: _Watch

    def __hash__(self) -> int:
        return int.__hash__(self)


def _watched(value: int, watch: _Watch) -> _Watched:
    number = _Watched(value)
    number.watch = watch
    return number


def _noting(name: str, *, compares: bool) -> Callable[..., Any]:
    original = getattr(int, name)

    def operate(self: _Watched, *others: Any) -> Any:
        result = original(self, *others)
        watch, caller = self.watch, sys._getframe(1)
        is_same = compares and all(original(number, *others) is result for number in watch.stands_for)
        if not is_same and caller.f_code.co_filename in watch.files and _is_operator(caller):
            watch.decisions.note(watch.stack, caller)
        return result

    return operate


def _is_operator(caller: FrameType) -> bool:
    """Return whether a frame is at an operator: a dictionary that looks a number up compares it, too."""
    return dis.opname[caller.f_code.co_code[caller.f_lasti]] not in _PASSING_ON


_PASSING_ON = ("CALL", "PRECALL", "CALL_KW", "CALL_FUNCTION_EX", "BINARY_SUBSCR", "STORE_SUBSCR")
"""Instructions that hand a number to something else."""

for _name in ("lt", "le", "gt", "ge", "eq", "ne", "bool"):
    setattr(_Watched, f"__{_name}__", _noting(f"__{_name}__", compares=True))
for _name in ("add", "sub", "mul", "mod", "floordiv", "truediv", "pow"):
    for _side in ("", "r"):
        setattr(_Watched, f"__{_side}{_name}__", _noting(f"__{_side}{_name}__", compares=False))


class _Listed:
    """Note that a list is gone through by code that is watched."""

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
    """Watch the numbers of layers inside the block.

    Args:
        model: the model with the layers.
        stacks: which layers they are, and what they stand for.

    Yields:
        Where code decided by a number, filled as it runs. Passing a number on, as to a cache, is no decision.
    """
    decisions = Decisions()
    watches: dict[int, tuple[int, _Watch]] = {}
    replaced: list[tuple[Any, str, Any]] = []
    files = frozenset(str(getattr(module, "__file__", "")) for module in _sources(model))
    for stack in stacks:
        layers = list(model.get_submodule(stack.path)._modules.values())
        for position, layer in enumerate(layers[: len(stack.traced)]):
            if layer is None:
                continue
            watch = _Watch(stack.path, files, stack.stands_for(position), decisions)
            watches[id(layer)] = (position, watch)
            replaced += _watch_own(layer, position, watch)
        replaced += _watch_lists(model.config, _Watch(stack.path, files, (), decisions), len(stack.traced))
    sources = [module for module in _sources(model) if not hasattr(module, "enumerate")] if watches else []
    try:
        for module in sources:
            module.enumerate = _counting(watches)  # type: ignore[attr-defined]
        yield decisions
    finally:
        for module in sources:
            del module.enumerate  # type: ignore[attr-defined]
        for owner, name, value in reversed(replaced):
            vars(owner)[name] = value


def _sources(model: torch.nn.Module) -> list[ModuleType]:
    """List the files with the model's own code."""
    parts = [*model.modules(), *_configurations(model.config)]
    names = dict.fromkeys(type(part).__module__ for part in parts)
    return [sys.modules[name] for name in names if name.split(".")[0] != "torch" and name in sys.modules]


def _configurations(config: Any) -> list[Any]:
    """List a configuration and those inside it."""
    from transformers import PreTrainedConfig

    inner = (value for value in vars(config).values() if isinstance(value, PreTrainedConfig))
    return [config, *(found for value in inner for found in _configurations(value))]


def _watch_lists(config: Any, watch: _Watch, length: int) -> list[tuple[Any, str, Any]]:
    """Watch the lists of a configuration with a number for each layer; return what was there."""
    replaced = []
    for part in _configurations(config):
        for name, value in list(vars(part).items()):
            if type(value) in (list, tuple) and len(value) == length and all(type(v) in (int, float) for v in value):
                listed = _WatchedList(value) if type(value) is list else _WatchedTuple(value)
                listed.watch = watch
                vars(part)[name] = listed
                replaced.append((part, name, value))
    return replaced


def _watch_own(layer: torch.nn.Module, position: int, watch: _Watch) -> list[tuple[Any, str, Any]]:
    """Replace the numbers that a layer and its parts keep of it; return what was there."""
    replaced = []
    for module in layer.modules():
        for name, value in list(vars(module).items()):
            if type(value) is int and is_number(name):
                setattr(module, name, _watched(value, _moved(watch, value - position)))
                replaced.append((module, name, value))
    return replaced


def _moved(watch: _Watch, offset: int) -> _Watch:
    """Return a watch for counting that starts elsewhere."""
    numbers = tuple(number + offset for number in watch.stands_for)
    return _Watch(watch.stack, watch.files, numbers, watch.decisions) if offset else watch


def _counting(watches: dict[int, tuple[int, _Watch]]) -> Callable[..., Iterator[tuple[int, Any]]]:
    """Return an `enumerate` whose numbers are watched where it counts layers, alone or beside something else."""

    def counted(iterable: Any, start: int = 0) -> Iterator[tuple[int, Any]]:
        for number, item in builtins.enumerate(iterable, start):
            parts = item if isinstance(item, tuple) else (item,)
            position, watch = next((watches[id(part)] for part in parts if id(part) in watches), (0, None))
            yield (number if watch is None else _watched(number, _moved(watch, number - position))), item

    return counted
