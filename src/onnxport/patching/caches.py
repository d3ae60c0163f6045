"""Caches of symbolic expressions that outlive a trace: what is computed in one depends on what was traced before.

sympy caches every constructor of a function (`@cacheit`), so `FloorDiv(a, b)` is what `FloorDiv.eval` returned when it
was first called, by a replacement or by the original. torch caches operations on symbolic sizes in the same way: its
expressions are keyed by value, and symbols of two traces that have the same name are equal (torch 2.13).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType

_MODULES = (
    "torch.fx.experimental.symbolic_shapes",
    "torch.fx.experimental.sym_node",
    "torch.fx.experimental._size_hinting",
    "torch.utils._sympy.functions",
    "torch.utils._sympy.solve",
    "torch.utils._sympy.value_ranges",
)


@contextmanager
def fresh_symbolic_caches() -> Iterator[None]:
    """Start a block with empty caches of symbolic expressions, and leave none of its own behind."""
    clear_symbolic_caches()
    try:
        yield
    finally:
        clear_symbolic_caches()


def clear_symbolic_caches() -> None:
    """Empty the caches of sympy, and those of torch's symbolic shapes."""
    if "sympy" in sys.modules:
        from sympy.core.cache import clear_cache

        clear_cache()
    for name in _MODULES:
        if name in sys.modules:
            for clear in _cache_clears(vars(sys.modules[name]), name):
                clear()


def _cache_clears(namespace: dict[str, object], module: str) -> Iterator[Callable[[], None]]:
    """Yield the `cache_clear` of a module's `lru_cache`s: of functions, of methods, and inside closures of methods."""
    for value in list(namespace.values()):
        yield from _of_function(value)
        if isinstance(value, type) and value.__module__ == module:
            for method in list(vars(value).values()):
                yield from _of_function(method)


def _of_function(value: object) -> Iterator[Callable[[], None]]:
    candidates = [value]
    while isinstance(value, FunctionType):  # `SymNode._add`: a decorated function whose closure has the cache
        candidates += [cell.cell_contents for cell in value.__closure__ or ()]
        value = getattr(value, "__wrapped__", None)
    for candidate in candidates:
        clear = getattr(candidate, "cache_clear", None)
        if callable(clear) and hasattr(candidate, "cache_info"):
            yield clear
