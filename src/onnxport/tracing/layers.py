"""Find the stacks of repeated layers in a model, and say which of their layers are alike.

Two layers are alike when their signatures are equal: classes, scalar attributes other than the layer's own number,
shapes and dtypes of parameters and buffers, all the way down. Alike layers run the same code on the same shapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

LayerSignature = tuple[Any, ...]

_NUMBER = re.compile(r"^(layer|block)?_?(idx|id|index|number|num|i)$|^layer$|^seed$")
"""Attributes in which a layer keeps its own number; what is drawn with it as a seed is proved by the traced layers."""
_NO_OPERATION = re.compile(r"Drop|^Identity$")
"""Classes that do nothing in evaluation mode, whatever their rate."""


@dataclass(frozen=True)
class Stack:
    """Name a list of layers of which some are alike.

    Attributes:
        path: name of the `ModuleList` or `Sequential`, such as `model.layers`.
        signatures: one signature per layer.
    """

    path: str
    signatures: tuple[LayerSignature, ...]

    def __len__(self) -> int:
        return len(self.signatures)

    def representatives(self) -> tuple[int, ...]:
        """Return the layers to trace: of each signature the first two, so that one can be proved by the other."""
        seen: dict[LayerSignature, int] = {}
        chosen = []
        for index, signature in enumerate(self.signatures):
            seen[signature] = seen.get(signature, 0) + 1
            if seen[signature] <= 2:
                chosen.append(index)
        return tuple(chosen)


def find_stacks(model: torch.nn.Module) -> tuple[Stack, ...]:
    """List the outermost stacks of a model in which a layer has a twin.

    Args:
        model: any module; its parameters may be fake or on the meta device.
    """
    return tuple(_stacks(model, ""))


def _stacks(module: torch.nn.Module, path: str) -> Iterator[Stack]:
    import torch

    if isinstance(module, (torch.nn.ModuleList, torch.nn.Sequential)) and len(module) > 2:
        signatures = tuple(signature_of_layer(layer) for layer in module)
        twins = {signature for signature in signatures if signatures.count(signature) > 1}
        shrinks = any(_shrinks(layer) for layer, its in zip(module, signatures, strict=True) if its in twins)
        if twins and not shrinks:
            yield Stack(path, signatures)
            return
    for name, child in module.named_children():
        yield from _stacks(child, f"{path}.{name}" if path else name)


def _shrinks(layer: torch.nn.Module) -> bool:
    """Say whether a layer returns less than it is given: after more of them, what follows is computed otherwise."""
    strides = (getattr(part, "stride", 1) for part in (layer, *layer.children()))
    return any(step != 1 for stride in strides for step in (stride if isinstance(stride, tuple) else (stride,)))


def signature_of_layer(module: torch.nn.Module) -> LayerSignature:
    """Return what decides the computation of a module, apart from its number and its weights."""
    if _NO_OPERATION.search(type(module).__name__):
        return ("no operation",)
    tensors = [(name, *_shape(value)) for name, value in (*module._parameters.items(), *module._buffers.items())]
    children = tuple((name, signature_of_layer(child)) for name, child in module.named_children())
    return (class_of(module), scalars(module), tuple(tensors), children)


def class_of(module: torch.nn.Module) -> tuple[Any, ...]:
    """Say what a module's class is: a parametrised module has one of its own, made like that of any other."""
    made = type(module)
    return (made.__module__, made.__qualname__, made.__bases__)


def scalars(module: torch.nn.Module) -> tuple[tuple[str, Any], ...]:
    """List a module's own settings: attributes with plain values, its number left out."""
    return tuple(
        (name, _hashable(value))
        for name, value in sorted(vars(module).items())
        if not name.startswith("_") and not is_number(name) and _is_plain(value)
    )


def is_number(name: str) -> bool:
    """Say whether an attribute of this name holds the layer's own number."""
    return _NUMBER.search(name) is not None


def _hashable(value: Any) -> Any:
    return tuple(_hashable(item) for item in value) if isinstance(value, (list, tuple)) else value


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _shape(value: torch.Tensor | None) -> tuple[Any, Any]:
    return (None, None) if value is None else (tuple(value.shape), value.dtype)
