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
    """Return a function whose `super()` is that of another class; the compiler keeps the class in a cell."""
    names = function.__code__.co_freevars
    if _CLASS not in names:
        return function
    cells = zip(names, function.__closure__ or (), strict=True)
    closure = tuple(owner if name == _CLASS else cell for name, cell in cells)
    code = function.__code__
    rebound = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, closure)
    rebound.__kwdefaults__ = function.__kwdefaults__
    return rebound


_CLASS = "__class__"
