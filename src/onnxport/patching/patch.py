"""Change another package's code for a while: what is replaced, by what, why, and until when is a value."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Patch:
    """Replace one attribute while a model is captured.

    Attributes:
        target: `module:attribute`, the attribute dotted. A builtin of a module is what only its code sees.
        make: makes the replacement from the original.
        reason: what goes wrong without.
        until: when the patch can be dropped.
    """

    target: str
    make: Callable[[Any], Any]
    reason: str
    until: str


@contextmanager
def patched(patches: tuple[Patch, ...]) -> Iterator[None]:
    """Apply patches, and put the originals back.

    Raises:
        AttributeError: a target doesn't exist any more.
    """
    with ExitStack() as stack:
        for patch in patches:
            owner, name = _resolve(patch.target)
            is_builtin = isinstance(owner, ModuleType) and not hasattr(owner, name)
            original = getattr(builtins if is_builtin else owner, name)
            if name in vars(owner):
                stack.callback(setattr, owner, name, vars(owner)[name])
            else:
                stack.callback(delattr, owner, name)
            setattr(owner, name, patch.make(original))
        yield


def _resolve(target: str) -> tuple[Any, str]:
    module, _, path = target.partition(":")
    owner: Any = import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    return owner, name
