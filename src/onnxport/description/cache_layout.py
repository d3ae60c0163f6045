"""The tensors of each layer of a decoder's cache: names, shapes and axes; conversion from and to Transformers' cache.

Attention caches keys and values, which grow by one entry per token; an indexer of sparse attention caches keys as well,
and attention to compressed windows of tokens caches what is compressed: a projection and a gate of each token.
A recurrence caches the last inputs of its convolution (`conv`) and a state of fixed size: `ssm` in the Mamba family,
`recurrent` in all others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from onnxport.description.tasks import PAST_SUFFIX
from onnxport.description.text_configs import text_config_of
from onnxport.errors import UnsupportedError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_ATTENTION = ("keys", "values")
_INDEXER = "indexer_keys"
_COMPRESSED = {f"{name}_{part}": 1 for name in ("compressor", "indexer") for part in ("kv", "gate")}
_SEQUENCE_AXES = {"keys": 2, "values": 2, _INDEXER: 1, **_COMPRESSED}
"""Attributes whose tensors grow by one entry per token, to the axis that grows."""
_RECURRENT = ("conv_states", "recurrent_states")
_SUPPORTED_LAYERS = (
    "DynamicLayer",
    "DynamicSlidingWindowLayer",
    "DynamicIndexedLayer",
    "LinearAttentionLayer",
    "LinearAttentionAndFullAttentionLayer",
    "LinearAttentionAndSlidingWindowAttentionLayer",
)
"""Layer classes of Transformers' caches that hold only the tensors above."""
_STATE_SPACE_FIELDS = ("mamba_d_state", "ssm_state_size", "state_size")
"""Configuration fields that only models of the Mamba family have."""


CACHED_ROWS = 3
"""Length of a dummy cache that doesn't grow by tokens, such as that of cross-attention to images."""


@dataclass(frozen=True)
class CacheTensor:
    """Describe one tensor of a layer's cache.

    Attributes:
        layer: layer index.
        part: attribute of the layer in Transformers' cache.
        kind: its part of the names in the graph: `key`, `value`, `index_key`, `conv`, `ssm` or `recurrent`; of one that
            isn't among the keys and values, such as `compressor.kv`, also what is before the layer index.
        shape: shape without the batch axis, which is the first.
        number: index among several tensors of the same kind in a layer; None if it is the only one.
        sequence: label of the axis that grows: `sequence` for one entry per token; a cache with another label is filled
            in one step.
    """

    layer: int
    part: str
    kind: str
    shape: tuple[int, ...]
    number: int | None = None
    sequence: str = "sequence"

    @property
    def grows(self) -> bool:
        """Whether it has a sequence axis."""
        return self.part in _SEQUENCE_AXES

    def name(self, direction: str) -> str:
        """Return its name among the graph's `inputs` or `outputs`."""
        if self.grows:
            owner, _, kind = self.kind.rpartition(".")
            past, present = (f"past_{owner}", f"present_{owner}") if owner else ("past_key_values", "present")
            return f"{past if direction == 'inputs' else present}.{self.layer}.{kind}"
        number = "" if self.number is None else f".{self.number}"
        return f"{'past' if direction == 'inputs' else 'present'}_{self.kind}.{self.layer}{number}"

    def axes(self, direction: str) -> Mapping[int, str]:
        """Return its dynamic axes."""
        if not self.grows:
            return {0: "batch"}
        length = f"past_{self.sequence}"
        return {
            0: "batch",
            _SEQUENCE_AXES[self.part]: length if direction == "inputs" else f"{length} + {self.sequence}",
        }

    def zeros(self, batch: int, past: int) -> torch.Tensor:
        """Return a dummy tensor of zeros.

        Args:
            batch: batch size.
            past: number of cached tokens.
        """
        import torch

        sizes = [batch, *self.shape]
        if self.grows:
            sizes[_SEQUENCE_AXES[self.part]] = past if self.sequence == "sequence" else CACHED_ROWS
        return torch.zeros(sizes)


@dataclass(frozen=True)
class CacheLayout:
    """Describe a decoder's cache.

    Attributes:
        layers: the tensors of each layer that has any.
        depth: number of layers, including those without tensors.
        waiting: indices of layers whose cache is still empty: cross-attention layers without an image.
    """

    layers: tuple[tuple[CacheTensor, ...], ...]
    depth: int
    waiting: frozenset[int] = frozenset()

    @classmethod
    def of(cls, model: PreTrainedModel, cache: Any) -> Self:
        """Describe the cache that a model returned.

        Raises:
            UnsupportedError: its class or that of a layer isn't supported.
        """
        cache = _self_attention_cache(cache)
        layers = cache.layers if type(cache).__name__ == "DynamicCache" else ()
        tensors = [_cache_tensors(model, index, layer) for index, layer in enumerate(layers)]
        if not any(tensors):
            found = f"a {type(cache).__name__} without keys, values or states" if cache is not None else "no cache"
            raise UnsupportedError(_unsupported_cache_message(model, found))
        waiting = {i for i, layer in enumerate(layers) if not tensors[i] and type(layer).__name__.startswith("Dynamic")}
        return cls(tuple(parts for parts in tensors if parts), len(layers), frozenset(waiting))

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {**asdict(self), "waiting": sorted(self.waiting)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Build a layout from the output of `to_json`."""
        layers = tuple(
            tuple(CacheTensor(**{**part, "shape": tuple(part["shape"])}) for part in parts) for parts in value["layers"]
        )
        return cls(layers, value["depth"], frozenset(value["waiting"]))

    @property
    def grows(self) -> bool:
        """Whether any of its tensors has a sequence axis."""
        return any(part.grows for parts in self.layers for part in parts)

    @property
    def is_recurrent(self) -> bool:
        """Whether it holds recurrent states."""
        return any(part.part == "recurrent_states" for parts in self.layers for part in parts)

    def at_depth(self, sources: Sequence[int]) -> Self:
        """Return the layout of a deeper model's cache.

        Args:
            sources: for each layer of the deeper model, the index of the layer of this layout that it repeats.
        """
        by_layer = {parts[0].layer: parts for parts in self.layers}
        layers = [
            tuple(replace(part, layer=index) for part in by_layer[source])
            for index, source in enumerate(sources)
            if source in by_layer
        ]
        waiting = frozenset(index for index, source in enumerate(sources) if source in self.waiting)
        return replace(self, layers=tuple(layers), depth=len(sources), waiting=waiting)

    def named(self, direction: str) -> dict[str, Mapping[int, str]]:
        """Return the names of the graph's `inputs` or `outputs`, with their dynamic axes."""
        return {part.name(direction): part.axes(direction) for parts in self.layers for part in parts}

    def flattened(self, direction: str, past: Sequence[Sequence[Any]]) -> dict[str, Any]:
        """Return the tensors of a cache by name, from one tuple per layer."""
        pairs = zip(self.layers, past, strict=True)
        return {p.name(direction): t for parts, tensors in pairs for p, t in zip(parts, tensors, strict=True)}

    def zeros(self, batch: int, past: int) -> list[tuple[torch.Tensor, ...]]:
        """Return a cache of zeros, one tuple per layer."""
        return [tuple(part.zeros(batch, past) for part in parts) for parts in self.layers]

    def to_cache(self, past: Sequence[Sequence[Any]]) -> Any:
        """Build Transformers' cache from one tuple per layer; recurrent layers get a previous state."""
        from transformers.cache_utils import DummyLayer, DynamicCache, DynamicLayer

        cache = DynamicCache()
        cache.layers = [DynamicLayer() if i in self.waiting else DummyLayer() for i in range(self.depth)]
        for parts, tensors in zip(self.layers, past, strict=True):
            cache.layers[parts[0].layer] = _cache_layer(dict(zip(parts, tensors, strict=True)))
        _count_tokens(cache.layers)
        return cache

    def from_cache(self, cache: Any) -> list[tuple[torch.Tensor, ...]]:
        """Return one tuple per layer from Transformers' cache, the inverse of `to_cache`."""
        cache = _self_attention_cache(cache)
        return [
            tuple(_layer_tensor(cache.layers[part.layer], part.part, part.number or 0) for part in parts)
            for parts in self.layers
        ]


@dataclass(frozen=True)
class CrossAttentionLayout:
    """Describe the cache of a decoder with cross-attention to an encoder.

    Attributes:
        layers: for each layer, (heads, head size) of four tensors: keys and values of self-attention, keys and values
            of cross-attention.
    """

    layers: tuple[tuple[tuple[int, int], ...], ...]

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.layers)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Build a layout from the output of `to_json`."""
        return cls(tuple(tuple((heads, size) for heads, size in layer) for layer in value["layers"]))

    def at_depth(self, sources: Sequence[int]) -> Self:
        """Return the layout of a deeper model's cache; see `CacheLayout.at_depth`."""
        return replace(self, layers=tuple(self.layers[source] for source in sources))


def _self_attention_cache(cache: Any) -> Any:
    """Return the self-attention cache of an `EncoderDecoderCache`; any other cache itself."""
    return getattr(cache, "self_attention_cache", cache)


def _cache_tensors(model: PreTrainedModel, layer_index: int, layer: Any) -> tuple[CacheTensor, ...]:
    names = [(part, 0) for part in (*_ATTENTION, _INDEXER)]
    count = getattr(layer, "number_of_states", 1)
    names += [(part, index) for part in _RECURRENT for index in range(count)]
    parts = {(part, index): _layer_tensor(layer, part, index) for part, index in names}
    tensors = {name: tensor for name, tensor in parts.items() if tensor is not None}
    if not tensors:
        return ()
    is_supported = all(tensors[part, 0].dim() == 4 for part in _ATTENTION if (part, 0) in tensors)
    if type(layer).__name__ not in _SUPPORTED_LAYERS or not is_supported:
        found = f"an unsupported {type(layer).__name__} in layer {layer_index}"
        raise UnsupportedError(_unsupported_cache_message(model, found))
    if getattr(layer, "indexer_position_ids", None) is not None:
        found = f"position ids of an indexer's keys in layer {layer_index}"
        raise UnsupportedError(_unsupported_cache_message(model, found))
    state_space = any(hasattr(text_config_of(model.config), name) for name in _STATE_SPACE_FIELDS)
    kinds = {"keys": "key", "values": "value", _INDEXER: "index_key", "conv_states": "conv"}
    kinds["recurrent_states"] = "ssm" if state_space else "recurrent"
    return tuple(
        CacheTensor(layer_index, part, kinds[part], tuple(t.shape[1:]), i if part in _RECURRENT and count > 1 else None)
        for (part, i), t in tensors.items()
    )


def _unsupported_cache_message(model: PreTrainedModel, found: str) -> str:
    return f"{type(model).__name__} can't be exported with past: it returns {found}; {WITHOUT_PAST}"


WITHOUT_PAST = f"name the task without {PAST_SUFFIX}, or add --no-past where it is inferred"
"""Remedy of errors about a cache."""


def _layer_tensor(layer: Any, part: str, index: int = 0) -> Any:
    """Return a tensor of a layer of Transformers' cache; None if it has none.

    Args:
        layer: the layer.
        part: name of its attribute.
        index: index among several tensors of the same kind.
    """
    value = getattr(layer, part, None)
    return value[index] if isinstance(value, dict) else value


def _count_tokens(layers: Sequence[Any]) -> None:
    """Set the number of cached tokens in layers with recurrent states to that of an attention layer.

    Transformers asks the first layer for it since 5.25; before, layers with recurrent states didn't count.
    """
    keys = next((layer.keys for layer in layers if getattr(layer, "keys", None) is not None), None)
    for layer in layers:
        if keys is not None and hasattr(layer, "cumulative_length_linear"):
            layer.cumulative_length_linear = keys.new_full(
                (), keys.shape[-2], dtype=layer.cumulative_length_linear.dtype
            )


def _cache_layer(by_spec: Mapping[CacheTensor, torch.Tensor]) -> Any:
    """Build a layer of Transformers' cache from its tensors."""
    from transformers import cache_utils as caches

    tensors = {part.part: tensor for part, tensor in by_spec.items()}
    if not any(part in tensors for part in _RECURRENT):
        layer = caches.DynamicIndexedLayer() if _INDEXER in tensors else caches.DynamicLayer()
    else:
        count = 1 + max(part.number or 0 for part in by_spec)
        classes = caches.LinearAttentionAndFullAttentionLayer, caches.LinearAttentionLayer
        layer = classes["keys" not in tensors](number_of_states=count)
    if "keys" in tensors:
        caches.DynamicLayer.update(layer, tensors["keys"], tensors["values"])
    if _INDEXER in tensors:
        layer.update_indexer(tensors[_INDEXER])
    for part, tensor in by_spec.items():
        if part.part in _RECURRENT:
            index = part.number or 0
            getattr(layer, part.part)[index] = tensor.clone()  # the model updates it in place
            getattr(layer, f"is_{part.part}_initialized")[index] = True
            layer.has_previous_state[index] = True
            layer.dtype, layer.device = tensor.dtype, tensor.device
        if part.part == "conv_states":
            layer.conv_kernel_size[part.number or 0] = tensor.shape[-1]
    return layer
