"""Extend the description of a model with few layers to the same model with more layers.

Only the cache is described by layer: a layer of the deeper model has the cache of the first described layer of its
type. Lists of other outputs aren't: a deeper model may return more. All references to the shallow model's configuration
and modules are replaced with those of the deeper model.
"""

from __future__ import annotations

import copy
import re
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
    """Raised if a description of few layers doesn't determine that of more layers; the message says why."""


@dataclass(frozen=True)
class LayerTypes:
    """Map the layers of a shortened stack to those of the same stack in a deeper model.

    Attributes:
        path: name of the `ModuleList` in both models.
        shallow: type of each layer of the shortened stack, as an integer.
        deep: type of each layer of the deeper stack, as the same integers.
    """

    path: str
    shallow: tuple[int, ...]
    deep: tuple[int, ...]

    @property
    def sources(self) -> tuple[int, ...]:
        """For each layer of the deeper stack, the index of the first layer of its type in the shortened stack."""
        return tuple(self.shallow.index(layer) for layer in self.deep)


def at_depth(
    config: OnnxConfig, shallow: PreTrainedModel, deep: PreTrainedModel, stacks: Sequence[LayerTypes]
) -> OnnxConfig:
    """Return the description of a deeper model, without running it.

    Args:
        config: description of the shallow model, or of one of its submodules.
        shallow: the model that was described.
        deep: the same model with more layers.
        stacks: every stack whose layers differ in the deeper model.

    Raises:
        NotExtendableError: the cache's entries aren't those of the layers of one stack, or outputs are listed.
    """
    listed = [name for name in config.outputs if re.search(r"\.\d+$", name) and not name.startswith("present")]
    if listed and any(stack.shallow != stack.deep for stack in stacks):
        raise NotExtendableError(f"there may be one for each layer: {', '.join(listed)}")
    extended: OnnxConfig = _Extension(shallow, deep, stacks).extended(config)
    return extended


class _Extension:
    """Replace the shallow model's configurations, modules, and caches with one entry per layer."""

    def __init__(self, shallow: PreTrainedModel, deep: PreTrainedModel, stacks: Sequence[LayerTypes]) -> None:
        decoder = _decoder_prefix(shallow)
        self._stacks = [stack for stack in stacks if f"{stack.path}.".startswith(decoder)]
        self._replacements: dict[int, Any] = {}
        modules = dict(deep.named_modules())
        for name, module in shallow.named_modules():
            if name in modules:
                self._replacements[id(module)] = modules[name]
                for shallow_config, deep_config in _configurations(module, modules[name]):
                    self._replacements.setdefault(id(shallow_config), deep_config)

    def extended(self, value: Any) -> Any:
        """Return the value of the deeper model's description for a value of the shallow one's."""
        if id(value) in self._replacements:
            return self._replacements[id(value)]
        if isinstance(value, CacheLayout | CrossAttentionLayout):
            return (
                value.at_depth(self._stack_with_depth(value.depth).sources) if self._stacks and value.layers else value
            )
        if isinstance(value, PackedPatchTracing):
            return value.at(self._replacements[id(value.model)])
        if type(value) in (list, tuple):
            items = [self.extended(item) for item in value]
            return value if all(a is b for a, b in zip(items, value, strict=True)) else type(value)(items)
        return self._extended_config(value) if isinstance(value, OnnxConfig) else value

    def _extended_config(self, config: OnnxConfig) -> OnnxConfig:
        extended = copy.copy(config)
        self._replacements[id(config)] = extended
        for name, value in vars(config).items():
            vars(extended)[name] = self.extended(value)
        return extended

    def _stack_with_depth(self, depth: int) -> LayerTypes:
        """Return the stack with as many layers as a cache has entries.

        Raises:
            NotExtendableError: no stack matches, or several that differ.
        """
        matching = {(stack.shallow, stack.deep): stack for stack in self._stacks if len(stack.shallow) == depth}
        if len(matching) != 1:
            names = ", ".join(stack.path for stack in self._stacks)
            raise NotExtendableError(f"a cache with {depth} entries doesn't match the layers of one stack of {names}")
        return next(iter(matching.values()))


def _decoder_prefix(model: PreTrainedModel) -> str:
    """Return the name prefix of the decoder's modules; empty if the model has no separate decoder."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    return next((f"{name}." for name, module in model.named_modules() if module is decoder and name), "")


def _configurations(
    shallow: torch.nn.Module, deep: torch.nn.Module
) -> Iterator[tuple[PreTrainedConfig, PreTrainedConfig]]:
    """Yield the configurations of two modules, and their nested configurations, in pairs."""
    from transformers import PreTrainedConfig

    pairs = [(getattr(shallow, "config", None), getattr(deep, "config", None))]
    while pairs:
        first, second = pairs.pop()
        if isinstance(first, PreTrainedConfig) and isinstance(second, PreTrainedConfig):
            yield first, second
            pairs += [(value, vars(second).get(name)) for name, value in vars(first).items()]
