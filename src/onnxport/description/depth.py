"""Turn the description of a model with few layers into that of the same model with more.

What a description knows of single layers is its cache. A layer of the deeper model has the cache of the first described
layer of its type; everything else refers to the deeper model's configuration and modules instead of the shallow one's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxport.configs import OnnxConfig
from onnxport.description._packed_patch_tracing import PackedPatchTracing
from onnxport.description.cache_layout import CacheLayout, CrossAttentionLayout

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel


class NotExtendableError(Exception):
    """Say why a description of few layers doesn't tell what one of more layers is."""


@dataclass(frozen=True)
class LayerTypes:
    """Map the layers of a shortened stack to those of the same stack in a deeper model.

    Attributes:
        path: name of the `ModuleList` in both models.
        shallow: type of each layer of the shortened stack, as a small integer.
        deep: type of each layer of the deeper one, by the same integers.
    """

    path: str
    shallow: tuple[int, ...]
    deep: tuple[int, ...]

    @property
    def sources(self) -> tuple[int, ...]:
        """For each layer of the deeper stack, the first layer of its type in the shortened one."""
        return tuple(self.shallow.index(layer) for layer in self.deep)


def at_depth(
    config: OnnxConfig, shallow: PreTrainedModel, deep: PreTrainedModel, stacks: Sequence[LayerTypes]
) -> OnnxConfig:
    """Return the description of a deeper model, without running it.

    Args:
        config: describes the shallow model, or a part of it.
        shallow: the model that was described.
        deep: the same model with more layers.
        stacks: every stack that has other layers in the deeper model.

    Raises:
        NotExtendableError: the cache has other entries than the layers of one stack.
    """
    extended: OnnxConfig = _Extension(shallow, deep, stacks).extended(config)
    return extended


class _Extension:
    """Replace what belongs to the shallow model: configurations, modules, and caches with one entry per layer."""

    def __init__(self, shallow: PreTrainedModel, deep: PreTrainedModel, stacks: Sequence[LayerTypes]) -> None:
        decoder = _decoder_prefix(shallow)
        self._stacks = [stack for stack in stacks if f"{stack.path}.".startswith(decoder)]
        self._replacements: dict[int, Any] = {}
        modules = dict(deep.named_modules())
        for name, module in shallow.named_modules():
            if name in modules:
                self._replacements[id(module)] = modules[name]
                for ours, its in _configurations(module, modules[name]):
                    self._replacements.setdefault(id(ours), its)

    def extended(self, value: Any) -> Any:
        """Return what stands in the deeper model's description for a value of the shallow one's."""
        if id(value) in self._replacements:
            return self._replacements[id(value)]
        if isinstance(value, CacheLayout | CrossAttentionLayout):
            return (
                value.at_depth(self._stack_with_depth(value.depth).sources) if self._stacks and value.layers else value
            )
        if isinstance(value, PackedPatchTracing):
            return value.at(self._replacements[id(value.model)])
        if type(value) in (list, tuple):
            found = [self.extended(item) for item in value]
            return value if all(a is b for a, b in zip(found, value, strict=True)) else type(value)(found)
        return self._extended_config(value) if isinstance(value, OnnxConfig) else value

    def _extended_config(self, config: OnnxConfig) -> OnnxConfig:
        extended = copy.copy(config)
        self._replacements[id(config)] = extended
        for name, value in vars(config).items():
            vars(extended)[name] = self.extended(value)
        return extended

    def _stack_with_depth(self, depth: int) -> LayerTypes:
        """Return the stack whose layers write a cache with a number of entries.

        Raises:
            NotExtendableError: there is none, or several that differ.
        """
        fitting = {(stack.shallow, stack.deep): stack for stack in self._stacks if len(stack.shallow) == depth}
        if len(fitting) != 1:
            names = ", ".join(stack.path for stack in self._stacks)
            raise NotExtendableError(f"a cache with {depth} entries doesn't tell those of the layers of {names}")
        return next(iter(fitting.values()))


def _decoder_prefix(model: PreTrainedModel) -> str:
    """Return the prefix of the modules that write the cache; empty where any may."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    return next((f"{name}." for name, module in model.named_modules() if module is decoder and name), "")


def _configurations(
    shallow: torch.nn.Module, deep: torch.nn.Module
) -> Iterator[tuple[PreTrainedConfig, PreTrainedConfig]]:
    """Yield the configurations of two modules, and those inside them, in pairs."""
    from transformers import PreTrainedConfig

    pairs = [(getattr(shallow, "config", None), getattr(deep, "config", None))]
    while pairs:
        ours, its = pairs.pop()
        if isinstance(ours, PreTrainedConfig) and isinstance(its, PreTrainedConfig):
            yield ours, its
            pairs += [(value, vars(its).get(name)) for name, value in vars(ours).items()]
