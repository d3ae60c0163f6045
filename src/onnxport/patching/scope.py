"""Replace other packages' code under a process-wide lock, and restore everything afterwards."""

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
    """Hold a lock while code changes, or relies on, process-wide state of torch and Transformers.

    Besides replaced attributes, this is torch's default dtype, logging levels, warning filters, standard output and
    Transformers' loader. The lock is reentrant. A thread that runs torch without it may run with replacements that
    another thread applied.
    """
    with _LOCK:
        yield


@contextmanager
def patching(*changes: Patch | Replacement) -> Iterator[None]:
    """Apply changes in order, and restore the originals in reverse order at the end of the block.

    A later patch of the same attribute wraps the earlier replacement.

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
    """Put a module and its submodules in evaluation mode within the block, and restore each one's mode afterwards.

    `module.train(mode)` would set the same mode in all submodules, including frozen ones of a model in training.
    """
    return patching(
        *(Replacement(submodule, "training", False) for submodule in module.modules() if submodule.training)
    )


def _apply(change: Replacement) -> Callable[[], None]:
    """Set an attribute, and return a function that restores it.

    A value in the owner's `__dict__` is restored unchanged, including a `staticmethod`. An inherited attribute is
    restored by deleting the replacement. The value of a property or `attribute_map` is set again.
    """
    owner, name = change.owner, change.name
    stored = _namespace(owner).get(name, _ABSENT)
    original = stored if stored is not _ABSENT else getattr(owner, name, _ABSENT)
    setattr(owner, name, change.value)

    def restore() -> None:
        if original is _ABSENT or (stored is _ABSENT and name in _namespace(owner)):
            delattr(owner, name)
        else:
            setattr(owner, name, original)

    return restore


def _namespace(owner: object) -> dict[str, object]:
    return getattr(owner, "__dict__", {})
