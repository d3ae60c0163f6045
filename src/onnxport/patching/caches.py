"""Clear caches of symbolic expressions that outlive a trace, which make a trace depend on earlier ones.

sympy caches every constructor of a function (`@cacheit`), so `FloorDiv(a, b)` is the result of the first call of
`FloorDiv.eval`, whether that was a replacement or the original. torch caches operations on symbolic sizes in the same
way: its expressions are keyed by value, and symbols of two traces with the same name are equal (torch 2.13).
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
    """Clear the caches of symbolic expressions before and after the block."""
    clear_symbolic_caches()
    try:
        yield
    finally:
        clear_symbolic_caches()


def clear_symbolic_caches() -> None:
    """Clear the caches of sympy and of torch's symbolic shapes."""
    if "sympy" in sys.modules:
        from sympy.core.cache import clear_cache

        clear_cache()
    for name in _MODULES:
        if name in sys.modules:
            for clear in _cache_clears(vars(sys.modules[name]), name):
                clear()


def _cache_clears(namespace: dict[str, object], module: str) -> Iterator[Callable[[], None]]:
    """Yield `cache_clear` of a module's `lru_cache`s: on functions, on methods, and in closures of methods."""
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
