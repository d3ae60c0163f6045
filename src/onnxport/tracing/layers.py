"""Find the stacks of repeated layers in a model, and group their layers by signature.

The signature of a layer consists of the classes, the scalar attributes except the layer index, and the shapes and
dtypes of the parameters and buffers of all its submodules, plus its layer type in the configuration. Layers with equal
signatures run the same code on the same shapes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

LayerSignature = tuple[Any, ...]

_INDEX = re.compile(r"^(layer|block)?_?(idx|id|index|number|num|i)$|^layer$|^seed$")
"""Attributes that hold the layer index, or a seed derived from it; the proof compares their effects."""
_STAGES = re.compile(r"^_?(stage_names|out_features)$")
"""Settings that list names which aren't layer types."""
_NO_OPERATION = re.compile(r"Drop|^Identity$")
"""Classes that are the identity in evaluation mode."""


@dataclass(frozen=True)
class Stack:
    """A stack of layers, some of which have equal signatures.

    Attributes:
        path: name of the `ModuleList` or `Sequential`, such as `model.layers`.
        signatures: signature of each layer.
        lists: settings that list the layer types, such as `layer_types`.
    """

    path: str
    signatures: tuple[LayerSignature, ...]
    lists: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.signatures)

    def representatives(self) -> tuple[int, ...]:
        """Return the indices of the layers to trace: the first two with each signature, to be proved isomorphic."""
        counts: Counter[LayerSignature] = Counter()
        indices = []
        for index, signature in enumerate(self.signatures):
            counts[signature] += 1
            if counts[signature] <= 2:
                indices.append(index)
        return tuple(indices)


def find_stacks(model: torch.nn.Module) -> tuple[Stack, ...]:
    """Return the outermost stacks of a model that have two layers with equal signatures.

    Args:
        model: any module; its parameters may be fake or on the meta device.
    """
    return tuple(_find_stacks(model, "", None))


def signatures_at(model: torch.nn.Module, path: str, lists: tuple[str, ...]) -> tuple[LayerSignature, ...]:
    """Return the signatures of the layers of a stack; empty if the model doesn't have it.

    Args:
        model: any module.
        path: name of the stack.
        lists: settings that list the layer types, see `Stack.lists`.
    """
    module, config = model, getattr(model, "config", None)
    for name in path.split(".") if path else ():
        if name not in module._modules:
            return ()
        module = module.get_submodule(name)
        config = getattr(module, "config", config)
    layers = module._modules.values()  # unlike children(), with repetitions of a shared module
    return _signatures([layer for layer in layers if layer is not None], config, lists)


def _signatures(
    layers: list[torch.nn.Module], config: PreTrainedConfig | None, lists: tuple[str, ...]
) -> tuple[LayerSignature, ...]:
    """Return the signature of each layer, including its layer type in the configuration."""
    settings = [(name, getattr(config, name, ())) for name in lists]
    signatures = tuple(signature_of_layer(layer) for layer in layers)
    types = [
        tuple((name, values[index]) for name, values in settings if index < len(values)) for index in range(len(layers))
    ]
    return tuple(
        (*signature, type_) if type_ else signature for signature, type_ in zip(signatures, types, strict=True)
    )


def _layer_type_lists(config: PreTrainedConfig | None, count: int) -> tuple[str, ...]:
    """Return the names of the settings that list the types of `count` layers."""
    return tuple(
        name
        for name, value in sorted(vars(config).items() if config is not None else ())
        if isinstance(value, (list, tuple)) and len(value) == count and _are_layer_types(name, value)
    )


def _are_layer_types(name: str, values: list[Any] | tuple[Any, ...]) -> bool:
    """Return whether a list holds the layer types.

    Strings are layer types, except stage names. Distinct numbers would give each layer a different type; whether code
    depends on them is detected while tracing (`layer_indices`).
    """
    if all(isinstance(value, str) for value in values):
        return not _STAGES.search(name)
    return all(isinstance(value, (bool, int, float)) for value in values) and len(set(values)) < len(values)


def _find_stacks(module: torch.nn.Module, path: str, config: PreTrainedConfig | None) -> Iterator[Stack]:
    import torch

    config = getattr(module, "config", config)
    if isinstance(module, (torch.nn.ModuleList, torch.nn.Sequential)) and len(module) > 2:
        lists = _layer_type_lists(config, len(module))
        signatures = _signatures(list(module), config, lists)
        repeated = {signature for signature in signatures if signatures.count(signature) > 1}
        pairs = zip(module, signatures, strict=True)
        shrinks = any(_downsamples(layer) for layer, signature in pairs if signature in repeated)
        if repeated and not shrinks:
            yield Stack(path, signatures, lists)
            return
    for name, child in module.named_children():
        yield from _find_stacks(child, f"{path}.{name}" if path else name, config)


def _downsamples(layer: torch.nn.Module) -> bool:
    """Return whether a layer downsamples, so that the shapes after it depend on the number of layers."""
    strides = (getattr(part, "stride", 1) for part in (layer, *layer.children()))
    return any(step != 1 for stride in strides for step in (stride if isinstance(stride, tuple) else (stride,)))


def signature_of_layer(module: torch.nn.Module) -> LayerSignature:
    """Return everything that determines the computation of a module, except its layer index and its weights."""
    if _NO_OPERATION.search(type(module).__name__):
        return ("no operation",)
    tensors = [(name, *_shape(value)) for name, value in (*module._parameters.items(), *module._buffers.items())]
    children = tuple((name, signature_of_layer(child)) for name, child in module.named_children())
    return (class_of(module), scalars(module), tuple(tensors), children)


def class_of(module: torch.nn.Module) -> tuple[Any, ...]:
    """Identify a module's class by name and bases: torch creates a new class for each parametrized module."""
    module_type = type(module)
    return (module_type.__module__, module_type.__qualname__, module_type.__bases__)


def scalars(module: torch.nn.Module) -> tuple[tuple[str, Any], ...]:
    """Return a module's scalar attributes, sorted by name, without its layer index."""
    return tuple(
        (name, _hashable(value))
        for name, value in sorted(vars(module).items())
        if not name.startswith("_") and not is_index(name) and _is_scalar(value)
    )


def is_index(name: str) -> bool:
    """Return whether an attribute of this name holds the layer index."""
    return _INDEX.search(name) is not None


def _hashable(value: object) -> Hashable:
    return tuple(_hashable(item) for item in value) if isinstance(value, (list, tuple)) else value


def _is_scalar(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_scalar(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _shape(value: torch.Tensor | None) -> tuple[Any, Any]:
    return (None, None) if value is None else (tuple(value.shape), value.dtype)
