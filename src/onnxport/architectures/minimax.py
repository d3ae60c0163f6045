"""MiniMax: its cache, and lightning attention for sequences of any length.

Transformers computes lightning attention block by block, in a loop that a trace specializes to the example's length,
and token by token behind a past. In the graph it is one attention over all tokens, whose scores decay with distance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, when_generating
from onnxport.description.cache_layout import CacheLayout, CacheTensor
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from transformers import Cache, PreTrainedModel
    from transformers.models.minimax.modeling_minimax import MiniMaxCache, MiniMaxLightningAttention


class MiniMaxOnnxConfig(DerivedOnnxConfig):
    """Describe MiniMax for generation: attention layers cache keys and values, the others their states."""

    def describe_cache(self, model: PreTrainedModel, cache: MiniMaxCache) -> CacheLayout:
        """Describe the cache of every layer."""
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

    def past_to_cache(self, past: Sequence[tuple[torch.Tensor, ...]], arguments: Mapping[str, Any]) -> MiniMaxCache:
        """Build the cache.

        Layers without keys get a `DummyLayer`. Transformers puts none there, so that a cache whose first layer has no
        keys has a sequence length of zero, and padding isn't masked after the first step.
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

    def cache_to_past(self, cache: MiniMaxCache) -> list[tuple[torch.Tensor, ...]]:
        """Return the cache entries of every layer, the inverse of `past_to_cache`."""
        return [
            (cache.linear_cache[parts[0].layer],)
            if len(parts) == 1
            else (cache.layers[parts[0].layer].keys, cache.layers[parts[0].layer].values)
            for parts in self._states.layers
        ]


def _attend(
    self: MiniMaxLightningAttention,
    hidden_states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
    attention_mask: torch.Tensor | None = None,
    past_key_values: Cache | None = None,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute `MiniMaxLightningAttention.forward` for any number of tokens.

    Args:
        self: the attention module.
        hidden_states: [batch, tokens, hidden].
        position_embeddings: not used: the decay depends on the distance of tokens.
        attention_mask: [batch, tokens], 0 for padding.
        past_key_values: the cache, which is updated.
        **_: not used.

    Returns:
        Like `hidden_states`, and the recurrent state, [batch, heads, head size, head size].
    """
    import torch

    batch, tokens, _hidden = hidden_states.shape
    projected = self.act_fn(self.qkv_proj(hidden_states))
    if attention_mask is not None:
        projected = projected * attention_mask[:, :, None].to(projected.dtype)
    heads = projected.view(batch, tokens, self.num_attention_heads, 3, self.head_dim)
    query, key, value = heads.permute(3, 0, 2, 1, 4).unbind(0)
    slope, positions = self.slope_rate.float(), torch.arange(tokens, device=hidden_states.device)
    distance = (positions[:, None] - positions[None, :]).float()
    scores = torch.exp((-slope * distance).masked_fill(distance < 0, float("-inf"))).to(query.dtype)
    output = ((query @ key.transpose(-1, -2)) * scores) @ value
    rest = torch.exp(-slope * (tokens - 1 - positions)[:, None]).to(key.dtype)
    state = (key * rest).transpose(-1, -2) @ value
    first = None if past_key_values is None else past_key_values.get_linear_cache(self.layer_idx)
    if first is not None:
        since = torch.exp(-slope * (positions + 1)[:, None]).to(query.dtype)
        output = output + (query * since) @ first
        state = state + first * since[:, -1:]
    if past_key_values is not None:
        past_key_values.set_linear_cache(self.layer_idx, state)
    output = self.norm(output.transpose(1, 2).reshape(batch, tokens, -1))
    return self.out_proj(torch.sigmoid(self.output_gate(hidden_states)) * output), state


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("minimax",),
        model=when_generating(MiniMaxOnnxConfig),
        patches=(
            Patch(
                "transformers.models.minimax.modeling_minimax:MiniMaxLightningAttention.forward",
                lambda _: _attend,
                "a loop over blocks of tokens specializes the sequence length, and a past is continued token by token",
                EAGER,
                "Transformers computes lightning attention of any length, from any state, without a loop",
            ),
        ),
    ),
)
