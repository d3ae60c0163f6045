"""The one scope in which other packages' code is replaced: a process-wide lock, and everything put back at the end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING

from onnxport.patching.patch import Patch, Replacement

if TYPE_CHECKING:
    import torch

_LOCK = threading.RLock()
_ABSENT = object()


@contextmanager
def exclusive() -> Iterator[None]:
    """Hold a lock while code changes, or relies on, what torch and Transformers keep once for the whole process.

    Besides replaced attributes these are torch's default dtype, logging levels, warning filters, standard output and
    Transformers' loader. The lock is re-entrant. A thread that runs torch without it may see replacements that another
    thread applied.
    """
    with _LOCK:
        yield


@contextmanager
def patching(*changes: Patch | Replacement) -> Iterator[None]:
    """Apply changes in order, and put the originals back at the end of the block, last one first.

    A later change of the same attribute is made of the earlier one's replacement.

    Args:
        *changes: patches, which are resolved here, and replacements.

    Raises:
        ImportError: a patch's module doesn't exist any more.
        AttributeError: a patch's target doesn't exist any more.
    """
    with exclusive(), ExitStack() as stack:
        for change in changes:
            stack.callback(_apply(change.resolve() if isinstance(change, Patch) else change))
        yield


def evaluating(module: torch.nn.Module) -> AbstractContextManager[None]:
    """Put a module and all its parts in evaluation mode in a block; each has its own mode again afterwards.

    `module.train(mode)` would set the mode of the whole in every part, also in frozen parts of a model in training.
    """
    return patching(*(Replacement(part, "training", False) for part in module.modules() if part.training))


def _apply(change: Replacement) -> Callable[[], None]:
    """Set an attribute, and return a function that restores it.

    What the owner itself held is restored as it was, a `staticmethod` included; what it inherited is uncovered again;
    what a property or an `attribute_map` keeps elsewhere is set to the value that it had.
    """
    owner, name = change.owner, change.name
    held = _own(owner).get(name, _ABSENT)
    before = held if held is not _ABSENT else getattr(owner, name, _ABSENT)
    setattr(owner, name, change.value)

    def restore() -> None:
        if before is _ABSENT or (held is _ABSENT and name in _own(owner)):
            delattr(owner, name)
        else:
            setattr(owner, name, before)

    return restore


def _own(owner: object) -> dict[str, object]:
    return getattr(owner, "__dict__", {})
