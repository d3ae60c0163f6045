"""Restore what a forward stores on a model's modules.

Some forwards store sizes or tensors on their modules, which the next run reads: Swin reduces its window to a small
image, LeViT caches its attention biases, rotary embeddings keep the longest sequence. A run that describes a model on
short examples must not change what is traced.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_CONTAINERS = (dict, list, set)
_HOOKS_INSTALLED = "_output_capturing_hooks_installed"
"""Transformers' forwards install the hooks that capture hidden states once, and note it here."""


@contextmanager
def preserving_state(model: torch.nn.Module) -> Iterator[None]:
    """Restore the attributes and buffers of a model's modules at the end of the block, and entries of their containers.

    Nothing is restored if the block changes parameters in place: RWKV divides its weights in its first run, and the
    attribute that it sets then says so.

    Args:
        model: the model.
    """
    states = [(vars(module), _state_of(module)) for module in model.modules()]
    versions = _versions_of(model)
    try:
        yield
    finally:
        if _versions_of(model) == versions:
            for attributes, state in states:
                _restore(attributes, state)


def _versions_of(model: torch.nn.Module) -> list[int]:
    parameters = (parameter for parameter in model.parameters() if not parameter.is_inference())  # those have none
    return [parameter._version for parameter in parameters]


def _state_of(module: torch.nn.Module) -> dict[str, tuple[Any, Any]]:
    """Map the attributes and the buffers to their values, and copies of those that are containers."""
    values = {name: value for name, value in vars(module).items() if _is_restored(name)}
    return {
        name: (value, copy.copy(value) if isinstance(value, _CONTAINERS) else None) for name, value in values.items()
    }


def _is_restored(name: str) -> bool:
    """Return whether an attribute is a model's own, not one of PyTorch's registries or what says that hooks are set."""
    return name not in _kept_names()


@functools.cache
def _kept_names() -> frozenset[str]:
    import torch

    return frozenset(vars(torch.nn.Module())) - {"_buffers"} | {_HOOKS_INSTALLED}


def _restore(attributes: dict[str, Any], state: dict[str, tuple[Any, Any]]) -> None:
    for name in [name for name in attributes if _is_restored(name) and name not in state]:
        del attributes[name]
    for name, (value, entries) in state.items():
        attributes[name] = value
        if isinstance(value, list):
            value[:] = entries
        elif entries is not None:
            value.clear()
            value.update(entries)
