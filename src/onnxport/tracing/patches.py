"""Our own fixes of the capture: what torch or Transformers does in a way that doesn't survive it.

A patch is a value: where it applies, what it puts there, why, and when it can go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Patch:
    """Replace one attribute while a model is captured.

    Attributes:
        target: `module:attribute`, the attribute dotted.
        make: makes the replacement from the original.
        reason: what goes wrong without.
        until: when the patch can be dropped.
    """

    target: str
    make: Callable[[Any], Any]
    reason: str
    until: str


def _squeeze(original: Any) -> Any:
    """Squeeze the axes that are 1 for every size of the dynamic ones."""

    def squeeze(tensor: Any, *dims: Any, **named: Any) -> Any:
        if dims or named:
            return original(tensor, *dims, **named)
        for axis in reversed(range(tensor.dim())):
            if isinstance(tensor.shape[axis], int) and tensor.shape[axis] == 1:
                tensor = original(tensor, axis)
        return tensor

    return squeeze


PATCHES: tuple[Patch, ...] = (
    Patch(
        "torch:Tensor.squeeze",
        _squeeze,
        "squeeze() without axes becomes Squeeze without axes, which drops the batch when it is 1 (mBART, PLBart)",
        "the engine lowers aten.squeeze.default to the axes that are statically 1",
    ),
)


@contextmanager
def patched(patches: tuple[Patch, ...] = PATCHES) -> Iterator[None]:
    """Apply patches, and put the originals back.

    Raises:
        AttributeError: a target doesn't exist any more.
    """
    with ExitStack() as stack:
        for patch in patches:
            owner, name = _resolve(patch.target)
            original = getattr(owner, name)
            setattr(owner, name, patch.make(original))
            stack.callback(setattr, owner, name, original)
        yield


def _resolve(target: str) -> tuple[Any, str]:
    module, _, path = target.partition(":")
    owner: Any = import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    return owner, name
