"""MiniMax: its cache, and its lightning attention in a form whose trace is right for any number of tokens.

Transformers computes lightning attention block by block, in a loop that a trace would fix at the traced length; from a
state on, token by token. In the graph it is one attention over all tokens whose scores decay by their distance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, when_generating
from onnxport.description.cache_layout import CacheLayout, CacheTensor
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class MiniMaxOnnxConfig(DerivedOnnxConfig):
    """Describe MiniMax for generation: keys and values of some layers, states of the others."""

    def describe_cache(self, model: PreTrainedModel, cache: Any) -> CacheLayout:
        """Describe what every layer caches."""
        layers: list[tuple[CacheTensor, ...]] = []
        for number, kind in enumerate(model.config.layer_types):
            if kind == "linear_attention":
                state = tuple(cache.linear_cache[number].shape[1:])
                layers.append((CacheTensor(number, "recurrent_states", "recurrent", state),))
            else:
                pair = (cache.layers[number].keys, cache.layers[number].values)
                layers.append(
                    (
                        CacheTensor(number, "keys", "key", tuple(pair[0].shape[1:])),
                        CacheTensor(number, "values", "value", tuple(pair[1].shape[1:])),
                    )
                )
        return CacheLayout(tuple(layers), len(layers))

    def past_to_cache(self, past: Any, arguments: Mapping[str, Any]) -> Any:
        """Build the cache.

        Layers without keys hold the place of nothing in it: Transformers' own looks like one that is empty where its
        first layer has none, and padding is no longer masked after the first step.
        """
        from transformers.cache_utils import DummyLayer, DynamicLayer
        from transformers.models.minimax.modeling_minimax import MiniMaxCache

        cache = MiniMaxCache()
        for number, tensors in enumerate(past):
            cache.set_linear_cache(number, [] if len(tensors) == 2 else tensors[0])
            cache.layers.append(DynamicLayer() if len(tensors) == 2 else DummyLayer())
            if len(tensors) == 2:
                cache.layers[number].update(*tensors)
        return cache

    def cache_to_past(self, cache: Any) -> Any:
        """Take the cache apart, the inverse of `past_to_cache`."""
        return [
            (cache.linear_cache[parts[0].layer],)
            if len(parts) == 1
            else (cache.layers[parts[0].layer].keys, cache.layers[parts[0].layer].values)
            for parts in self._cache_layout.layers
        ]


def _attend(
    self: Any,
    hidden_states: torch.Tensor,
    position_embeddings: Any = None,
    attention_mask: torch.Tensor | None = None,
    past_key_values: Any = None,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend as `MiniMaxLightningAttention.forward` does.

    Args:
        self: the attention module.
        hidden_states: [batch, tokens, hidden].
        position_embeddings: not used: the decay says how far tokens are from each other.
        attention_mask: [batch, tokens], 0 for padding.
        past_key_values: the cache, which is brought up to date.
        **_: not used.

    Returns:
        Like `hidden_states`, and the state [batch, heads, head size, head size].
    """
    import torch

    batch, tokens, _hidden = hidden_states.shape
    projected = self.act_fn(self.qkv_proj(hidden_states))
    if attention_mask is not None:
        projected = projected * attention_mask[:, :, None].to(projected.dtype)
    heads = projected.view(batch, tokens, self.num_attention_heads, 3, self.head_dim)
    query, key, value = heads.permute(3, 0, 2, 1, 4).unbind(0)
    slope, numbers = self.slope_rate.float(), torch.arange(tokens, device=hidden_states.device)
    between = (numbers[:, None] - numbers[None, :]).float()
    scores = torch.exp((-slope * between).masked_fill(between < 0, float("-inf"))).to(query.dtype)
    output = ((query @ key.transpose(-1, -2)) * scores) @ value
    rest = torch.exp(-slope * (tokens - 1 - numbers)[:, None]).to(key.dtype)
    state = (key * rest).transpose(-1, -2) @ value
    first = None if past_key_values is None else past_key_values.get_linear_cache(self.layer_idx)
    if first is not None:
        since = torch.exp(-slope * (numbers + 1)[:, None]).to(query.dtype)
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
