"""Convert between the list of tuples that 4.37.2 used as KV cache and Transformers 5's `Cache` classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import Cache


def past_to_cache(past: Sequence[Sequence[torch.Tensor]]) -> Cache:
    """Build a `Cache` from one tuple of tensors per layer.

    Args:
        past: (key, value) or (decoder key, decoder value, encoder key, encoder value) of each layer.

    Returns:
        A `DynamicCache`, or an `EncoderDecoderCache` whose cross-attention is marked as computed.
    """
    from transformers.cache_utils import DynamicCache, EncoderDecoderCache

    self_attention = DynamicCache([tuple(layer[:2]) for layer in past])
    if len(past[0]) == 2:
        return self_attention
    cross_attention = DynamicCache([tuple(layer[2:4]) for layer in past])
    return EncoderDecoderCache(self_attention, cross_attention)


def cache_to_past(cache: Any) -> list[tuple[torch.Tensor, ...]]:
    """Return one tuple of tensors per layer from a cache, the inverse of `past_to_cache`."""
    if hasattr(cache, "cross_attention_cache"):
        self_attention = cache_to_past(cache.self_attention_cache)
        cross_attention = cache_to_past(cache.cross_attention_cache)
        if not cross_attention:
            return self_attention
        return [layer + cross for layer, cross in zip(self_attention, cross_attention, strict=True)]
    if hasattr(cache, "layers"):
        return [(layer.keys, layer.values) for layer in cache.layers if layer.keys is not None]
    return [tuple(layer) for layer in cache]
