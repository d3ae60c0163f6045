"""Give a class the methods of a Transformers class: its own `generate`, and what that calls."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import CellType, FunctionType
from typing import Any


def with_methods(base: type, original: type, selected: Callable[[str], bool]) -> Any:
    """Return a subclass with methods of a class of Transformers; `super()` in them refers to `base`.

    Args:
        base: the class, with the attributes that the methods read.
        original: the class of Transformers, whose instances have weights.
        selected: whether a method is taken, by its name.
    """
    owner = CellType()
    methods = {
        name: _rebound(value, owner)
        for name, value in vars(original).items()
        if inspect.isfunction(value) and selected(name)
    }
    found = type(base.__name__, (base,), {"__module__": base.__module__, **methods})
    owner.cell_contents = found
    return found


def _rebound(function: FunctionType, owner: CellType) -> FunctionType:
    """Return a function whose `super()` is that of another class; the compiler keeps the class in a cell.

    It loses its decorators, which turn gradients off, or rename the cache (since Transformers 5.24).
    """
    inner: FunctionType = inspect.unwrap(function)  # type: ignore[assignment]
    names = inner.__code__.co_freevars
    if _CLASS not in names:
        return function
    cells = zip(names, inner.__closure__ or (), strict=True)
    closure = tuple(owner if name == _CLASS else cell for name, cell in cells)
    rebound = FunctionType(inner.__code__, inner.__globals__, inner.__name__, inner.__defaults__, closure)
    rebound.__kwdefaults__ = inner.__kwdefaults__
    return rebound


_CLASS = "__class__"
