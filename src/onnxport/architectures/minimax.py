"""Describe MiniMax's cache, and compute its lightning attention so that a trace is valid for any sequence length.

Transformers computes lightning attention in a loop over blocks, which a trace would specialize to the traced length, or
token by token if there is a recurrent state. The graph computes it as one attention over all tokens, whose scores decay
with the distance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from onnxport._transformers_api import cache_argument
from onnxport.architectures._architecture import Architecture, when_generating
from onnxport.description.cache_layout import CacheLayout, CacheTensor
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class MiniMaxOnnxConfig(DerivedOnnxConfig):
    """Describe MiniMax for generation, which caches keys and values of some layers, and recurrent states of others."""

    def describe_cache(self, model: PreTrainedModel, cache: Any) -> CacheLayout:
        """Describe the cache entries of every layer."""
        layers: list[tuple[CacheTensor, ...]] = []
        for index, layer_type in enumerate(model.config.layer_types):
            if layer_type == "linear_attention":
                shape = tuple(cache.linear_cache[index].shape[1:])
                layers.append((CacheTensor(index, "recurrent_states", "recurrent", shape),))
            else:
                keys, values = cache.layers[index].keys, cache.layers[index].values
                layers.append(
                    (
                        CacheTensor(index, "keys", "key", tuple(keys.shape[1:])),
                        CacheTensor(index, "values", "value", tuple(values.shape[1:])),
                    )
                )
        return CacheLayout(tuple(layers), len(layers))

    def past_to_cache(self, past: Any, arguments: Mapping[str, Any]) -> Any:
        """Build the cache.

        Layers without keys are `DummyLayer`s. Without them, as in Transformers' cache, the cache seems empty if its
        first layer has no keys, and padding is no longer masked after the first step.
        """
        from transformers.cache_utils import DummyLayer, DynamicLayer
        from transformers.models.minimax.modeling_minimax import MiniMaxCache

        cache = MiniMaxCache()
        for index, tensors in enumerate(past):
            cache.set_linear_cache(index, [] if len(tensors) == 2 else tensors[0])
            cache.layers.append(DynamicLayer() if len(tensors) == 2 else DummyLayer())
            if len(tensors) == 2:
                cache.layers[index].update(*tensors)
        return cache

    def cache_to_past(self, cache: Any) -> Any:
        """Return the tensors of a cache, the inverse of `past_to_cache`."""
        return [
            (cache.linear_cache[parts[0].layer],)
            if len(parts) == 1
            else (cache.layers[parts[0].layer].keys, cache.layers[parts[0].layer].values)
            for parts in self._cache_layout.layers
        ]


def _lightning_attention(
    self: Any,
    hidden_states: torch.Tensor,
    position_embeddings: Any = None,
    attention_mask: torch.Tensor | None = None,
    **named: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute `MiniMaxLightningAttention.forward` without a loop.

    Args:
        self: the attention module.
        hidden_states: [batch, sequence, hidden_size].
        position_embeddings: not used: the decay encodes the distance between tokens.
        attention_mask: [batch, sequence]; 0 for padding.
        **named: the cache, which is updated; others aren't used.

    Returns:
        Hidden states, [batch, sequence, hidden_size], and the recurrent state, [batch, heads, head_dim, head_dim].
    """
    import torch

    batch, tokens, _hidden = hidden_states.shape
    projected = self.act_fn(self.qkv_proj(hidden_states))
    if attention_mask is not None:
        projected = projected * attention_mask[:, :, None].to(projected.dtype)
    heads = projected.view(batch, tokens, self.num_attention_heads, 3, self.head_dim)
    query, key, value = heads.permute(3, 0, 2, 1, 4).unbind(0)
    slope, position = self.slope_rate.float(), torch.arange(tokens, device=hidden_states.device)
    distance = (position[:, None] - position[None, :]).float()
    decay = torch.exp((-slope * distance).masked_fill(distance < 0, float("-inf"))).to(query.dtype)
    output = ((query @ key.transpose(-1, -2)) * decay) @ value
    key_decay = torch.exp(-slope * (tokens - 1 - position)[:, None]).to(key.dtype)
    state = (key * key_decay).transpose(-1, -2) @ value
    cache = cache_argument(named)
    past_state = None if cache is None else cache.get_linear_cache(self.layer_idx)
    if past_state is not None:
        query_decay = torch.exp(-slope * (position + 1)[:, None]).to(query.dtype)
        output = output + (query * query_decay) @ past_state
        state = state + past_state * query_decay[:, -1:]
    if cache is not None:
        cache.set_linear_cache(self.layer_idx, state)
    output = self.norm(output.transpose(1, 2).reshape(batch, tokens, -1))
    return self.out_proj(torch.sigmoid(self.output_gate(hidden_states)) * output), state


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("minimax",),
        model=when_generating(MiniMaxOnnxConfig),
        patches=(
            Patch(
                "transformers.models.minimax.modeling_minimax:MiniMaxLightningAttention.forward",
                lambda _: _lightning_attention,
                "a loop over blocks of tokens, or over tokens if there is a past, specializes the sequence length",
                EAGER,
                "Transformers computes lightning attention for any length, with or without a past, without a loop",
            ),
        ),
    ),
)
