"""Between the list of tuples that 4.37.2 called past and the `Cache` objects of today's models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def past_to_cache(past: Sequence[Sequence[Any]]) -> Any:
    """Build the cache that a model takes from one tuple of tensors per layer.

    Args:
        past: per layer (key, value), or (decoder key, decoder value, encoder key, encoder value).

    Returns:
        A `DynamicCache`, or an `EncoderDecoderCache` whose cross attention is marked as computed.
    """
    from transformers.cache_utils import DynamicCache, EncoderDecoderCache

    own = DynamicCache([tuple(layer[:2]) for layer in past])
    if len(past[0]) == 2:
        return own
    cross = DynamicCache([tuple(layer[2:4]) for layer in past])
    return EncoderDecoderCache(own, cross)


def cache_to_past(cache: Any) -> list[tuple[Any, ...]]:
    """Return one tuple of tensors per layer from a cache, the inverse of `past_to_cache`."""
    if hasattr(cache, "cross_attention_cache"):
        own, cross = cache_to_past(cache.self_attention_cache), cache_to_past(cache.cross_attention_cache)
        return [a + b for a, b in zip(own, cross, strict=True)] if cross else own
    if hasattr(cache, "layers"):
        return [(layer.keys, layer.values) for layer in cache.layers if layer.keys is not None]
    return [tuple(layer) for layer in cache]
