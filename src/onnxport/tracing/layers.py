"""Find the stacks of repeated layers in a model, and say which of their layers are alike.

Two layers are alike when their signatures are equal: classes, scalar attributes other than the layer's own number,
shapes and dtypes of parameters and buffers, all the way down, and what the configuration says of their kind. Alike
layers run the same code on the same shapes.
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
_STAGES = re.compile(r"^_?(stage_names|out_features)$")
"""Lists of a configuration with names that aren't those of kinds of layers."""
_NO_OPERATION = re.compile(r"Drop|^Identity$")
"""Classes that do nothing in evaluation mode, whatever their rate."""


@dataclass(frozen=True)
class Stack:
    """Name a list of layers of which some are alike.

    Attributes:
        path: name of the `ModuleList` or `Sequential`, such as `model.layers`.
        signatures: one signature per layer.
        lists: names of the configuration's lists that tell the layers' kinds.
    """

    path: str
    signatures: tuple[LayerSignature, ...]
    lists: tuple[str, ...] = ()

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
    return tuple(_stacks(model, "", None))


def signatures_at(model: torch.nn.Module, path: str, lists: tuple[str, ...]) -> tuple[LayerSignature, ...]:
    """Return the signatures of the layers of a stack; none where the model has no such stack.

    Args:
        model: any module.
        path: name of the stack.
        lists: names of the configuration's lists that tell the layers' kinds, of the stack that is compared.
    """
    module, config = model, getattr(model, "config", None)
    for name in path.split(".") if path else ():
        if name not in module._modules:
            return ()
        module = module.get_submodule(name)
        config = getattr(module, "config", config)
    layers = module._modules.values()  # one that stands there twice comes twice
    return _signatures([layer for layer in layers if layer is not None], config, lists)


def _signatures(layers: list[torch.nn.Module], config: Any, lists: tuple[str, ...]) -> tuple[LayerSignature, ...]:
    """Return a signature for each layer, with what the configuration beside them says of its kind."""
    said = [(name, getattr(config, name, ())) for name in lists]
    signatures = tuple(signature_of_layer(layer) for layer in layers)
    kinds = [
        tuple((name, values[number]) for name, values in said if number < len(values)) for number in range(len(layers))
    ]
    return tuple((*its, kind) if kind else its for its, kind in zip(signatures, kinds, strict=True))


def _lists_of_kinds(config: Any, count: int) -> tuple[str, ...]:
    """Name the lists of a configuration that tell the kinds of so many layers."""
    return tuple(
        name
        for name, value in sorted(vars(config).items() if config is not None else ())
        if isinstance(value, (list, tuple)) and len(value) == count and _are_kinds(name, value)
    )


def _are_kinds(name: str, values: list[Any] | tuple[Any, ...]) -> bool:
    """Return whether a list tells the kind of each layer.

    Names do, but for those of stages, of which some are returned; numbers that are all different tell layers apart, and
    which of them decide something is noticed when they are looked at.
    """
    if all(isinstance(value, str) for value in values):
        return not _STAGES.search(name)
    return all(isinstance(value, (bool, int, float)) for value in values) and len(set(values)) < len(values)


def _stacks(module: torch.nn.Module, path: str, config: Any) -> Iterator[Stack]:
    import torch

    config = getattr(module, "config", config)
    if isinstance(module, (torch.nn.ModuleList, torch.nn.Sequential)) and len(module) > 2:
        lists = _lists_of_kinds(config, len(module))
        signatures = _signatures(list(module), config, lists)
        repeated_layers = {signature for signature in signatures if signatures.count(signature) > 1}
        shrinks = any(_shrinks(layer) for layer, its in zip(module, signatures, strict=True) if its in repeated_layers)
        if repeated_layers and not shrinks:
            yield Stack(path, signatures, lists)
            return
    for name, child in module.named_children():
        yield from _stacks(child, f"{path}.{name}" if path else name, config)


def _shrinks(layer: torch.nn.Module) -> bool:
    """Return whether a layer returns less than it is given: after more of them, what follows is computed otherwise."""
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
    """Return whether an attribute of this name holds the layer's own number."""
    return _NUMBER.search(name) is not None


def _hashable(value: Any) -> Any:
    return tuple(_hashable(item) for item in value) if isinstance(value, (list, tuple)) else value


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _shape(value: torch.Tensor | None) -> tuple[Any, Any]:
    return (None, None) if value is None else (tuple(value.shape), value.dtype)
