"""Attention within windows and blocks in a form that a graph can hold: dense, with masks, for texts of any length.

Transformers pads texts to a multiple of the window and cuts them; Longformer and LED gather the tokens with global
attention by their positions, so that shapes depend on values. Memory grows with the square of the length here, and
linearly there. Validation runs Transformers' own code, so the two forms are compared with each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from onnxport.configs._patching import PatchingSpec

if TYPE_CHECKING:
    import torch


def patches_of(model: Any) -> list[PatchingSpec]:
    """Return the patches that put these forms in the place of those in a model's code.

    Args:
        model: a Transformers model.
    """
    kinds = {type(part).__name__: type(part) for part in model.modules()}
    specs = [
        PatchingSpec(kinds[kind], name, replacement)
        for kind, forms in _REPLACEMENTS.items()
        if kind in kinds
        for name, replacement in forms.items()
    ]
    if "PegasusXEncoder" in kinds:
        whole: Any = 1  # any text is a multiple of it
        specs.append(PatchingSpec(model.config, "block_size", whole))
    return specs


def attend_near_and_global(
    self: Any,
    hidden_states: Any,
    attention_mask: Any = None,
    is_index_masked: Any = None,
    is_index_global_attn: Any = None,
    is_global_attn: Any = None,
    output_attentions: bool = False,
) -> tuple[Any]:
    """Attend as the forward of `LongformerSelfAttention` and `LEDEncoderSelfAttention` does, densely.

    A query sees the keys within its window and those with global attention; a query with global attention sees all
    keys, through projections of its own.

    Args:
        self: the attention module.
        hidden_states: [batch, sequence, hidden].
        attention_mask: not used: the two masks say the same.
        is_index_masked: [batch, sequence], true for padding.
        is_index_global_attn: [batch, sequence], true for tokens with global attention.
        is_global_attn: not used.
        output_attentions: not used: graphs don't return attentions.
    """
    import torch

    batch, length, hidden = hidden_states.shape

    def heads(projection: Any) -> Any:
        return projection(hidden_states).view(batch, length, self.num_heads, self.head_dim).transpose(1, 2)

    def attend(query: Any, key: Any, value: Any, seen: Any) -> Any:
        scores = query @ key.transpose(-1, -2) / math.sqrt(self.head_dim)
        scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
        return torch.softmax(scores, dim=-1, dtype=torch.float32).type_as(scores) @ value

    positions = torch.arange(length, device=hidden_states.device)
    near = (positions[:, None] - positions[None, :]).abs() <= self.one_sided_attn_window_size
    unmasked = ~is_index_masked[:, None, None, :]
    seen = (near[None, None] & unmasked) | is_index_global_attn[:, None, None, :]
    local = attend(heads(self.query), heads(self.key), heads(self.value), seen)
    local = local.masked_fill(is_index_masked[:, None, :, None], 0.0)
    everywhere = attend(heads(self.query_global), heads(self.key_global), heads(self.value_global), unmasked)
    mixed = torch.where(is_index_global_attn[:, None, :, None], everywhere, local)
    return (mixed.transpose(1, 2).reshape(batch, length, hidden),)


def _leave_length(
    self: Any, input_ids: Any, attention_mask: Any, inputs_embeds: Any, pad_token_id: int
) -> tuple[Any, ...]:
    """Pad by nothing: dense attention takes any length."""
    return 0, input_ids, attention_mask, inputs_embeds


def attend_within_blocks(
    self: Any, token_hidden_states: torch.Tensor, global_hidden_states: torch.Tensor, attention_mask: Any, **_: Any
) -> tuple[torch.Tensor, torch.Tensor, None]:
    """Attend as `PegasusXGlobalLocalAttention.forward` does, densely.

    A token sees the tokens of its block and the global ones, which see everything.

    Args:
        self: the attention module.
        token_hidden_states: [batch, sequence, hidden].
        global_hidden_states: [batch, global tokens, hidden].
        attention_mask: [batch, sequence], what is added to the scores of a key; or a pair of it and the number of
            tokens by which the blocks begin earlier.
        **_: not used.

    Returns:
        Like the states.
    """
    import torch

    mask, offset = attention_mask if isinstance(attention_mask, tuple) else (attention_mask, 0)
    count, length = global_hidden_states.shape[1], token_hidden_states.shape[1]
    states = torch.cat([global_hidden_states, token_hidden_states], dim=1)

    def heads(projected: torch.Tensor) -> torch.Tensor:
        return projected.view(*projected.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)

    query, key, value = (
        heads(self.q_proj(states) * self.scaling),
        heads(self.k_proj(states)),
        heads(self.v_proj(states)),
    )
    added = torch.nn.functional.pad(mask, (count, 0))[:, None, None, :]
    blocks = (torch.arange(length, device=mask.device) + offset) // self.block_size
    other = torch.nn.functional.pad(blocks[:, None] != blocks[None, :], (count, 0, count, 0))
    scores = (query @ key.transpose(-1, -2) + added).masked_fill(other, torch.finfo(mask.dtype).min)
    seen = torch.softmax(scores, dim=-1) @ value
    found = self.out_proj(seen.transpose(1, 2).flatten(2))
    return found[:, count:], found[:, :count], None


def _begin_earlier(self: Any, hidden_states: Any, attention_mask: Any, block_size: int) -> tuple[Any, Any]:
    """Let the attention that follows know that its blocks begin half a block earlier, instead of padding."""
    return hidden_states, (attention_mask, block_size // 2)


def _cut_nothing(self: Any, padded_hidden_states: Any, block_size: int) -> Any:
    return padded_hidden_states


_REPLACEMENTS: dict[str, dict[str, Callable[..., Any]]] = {
    "LEDEncoderSelfAttention": {"forward": attend_near_and_global},
    "LEDEncoder": {"_pad_to_window_size": _leave_length},
    "PegasusXGlobalLocalAttention": {"forward": attend_within_blocks},
    "PegasusXEncoderLayer": {"pad_local_tokens": _begin_earlier, "unpad_local_tokens": _cut_nothing},
}
"""Names of Transformers' classes to what computes the same as methods of them."""
