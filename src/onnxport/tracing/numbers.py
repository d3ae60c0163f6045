"""Notice when a layer's code looks at the layer's own number: then other layers may compute something else.

Layers are taken for alike by their settings; a layer that decides by its number while it runs doesn't show it there.
While a model with few layers is traced, the numbers are integers that remember being compared or counted with.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from onnxport.tracing.layers import is_number

if TYPE_CHECKING:
    import torch


class _Watched(int):
    """An integer that notes operations in the files that it is told."""

    files: frozenset[str]
    seen: list[str]

    def __hash__(self) -> int:
        return int.__hash__(self)


def _noting(name: str) -> Callable[..., Any]:
    original = getattr(int, name)

    def operate(self: _Watched, *others: Any) -> Any:
        caller = sys._getframe(1)
        if caller.f_code.co_filename in self.files and _is_operator(caller):
            self.seen.append(f"{caller.f_code.co_qualname}, line {caller.f_lineno}")
        return original(self, *others)

    return operate


def _is_operator(caller: FrameType) -> bool:
    """Say whether a frame is at an operator: a dictionary that looks a number up compares it, too."""
    return dis.opname[caller.f_code.co_code[caller.f_lasti]] not in _PASSING_ON


_PASSING_ON = ("CALL", "PRECALL", "CALL_KW", "CALL_FUNCTION_EX", "BINARY_SUBSCR", "STORE_SUBSCR")
"""Instructions that hand a number to something else."""

for _name in ("lt", "le", "gt", "ge", "eq", "ne", "mod", "rmod", "add", "radd", "mul", "rmul", "sub", "rsub", "bool"):
    setattr(_Watched, f"__{_name}__", _noting(f"__{_name}__"))


@contextmanager
def watched_numbers(model: torch.nn.Module, paths: tuple[str, ...]) -> Iterator[list[str]]:
    """Watch the numbers of layers inside the block.

    Args:
        model: the model with the layers.
        paths: names of the module lists that hold them.

    Yields:
        Where the layers' own code used their numbers, filled as it runs. Passing a number on, as to a cache, is no use.
    """
    seen: list[str] = []
    replaced: list[tuple[torch.nn.Module, str, int]] = []
    for path in paths:
        layers = model.get_submodule(path)
        modules = list(layers.modules())
        files = frozenset(str(getattr(sys.modules[type(module).__module__], "__file__", "")) for module in modules)
        for module in modules:
            for name, value in list(vars(module).items()):
                if type(value) is int and is_number(name):
                    watched = _Watched(value)
                    watched.files, watched.seen = files, seen
                    setattr(module, name, watched)
                    replaced.append((module, name, value))
    try:
        yield seen
    finally:
        for module, name, value in replaced:
            setattr(module, name, value)
