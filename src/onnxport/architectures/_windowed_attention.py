"""Compute the attention of Longformer and LED densely, with masks, for sequences of any length.

Transformers pads sequences to a multiple of the window size and splits them into chunks, and gathers the tokens with
global attention by position, which makes shapes data-dependent. Memory is quadratic in the sequence length here, and
linear there. Validation runs Transformers' unpatched code, so the two implementations are compared with each other.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers.models.led.modeling_led import LEDEncoderSelfAttention
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention


def attend_local_and_global(
    self: LongformerSelfAttention | LEDEncoderSelfAttention,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    is_index_masked: torch.Tensor | None = None,
    is_index_global_attn: torch.Tensor | None = None,
    is_global_attn: bool | None = None,
    output_attentions: bool = False,
) -> tuple[torch.Tensor]:
    """Compute the forward of `LongformerSelfAttention` and `LEDEncoderSelfAttention` densely.

    A query attends to the keys within its window and to those with global attention; a query with global attention
    attends to all keys, through separate projections.

    Args:
        self: the attention module.
        hidden_states: [batch, sequence, hidden_size].
        attention_mask: not used: the two masks below are equivalent.
        is_index_masked: [batch, sequence]; true for padding.
        is_index_global_attn: [batch, sequence]; true for tokens with global attention.
        is_global_attn: not used.
        output_attentions: not used: graphs don't return attentions.
    """
    import torch

    assert is_index_masked is not None and is_index_global_attn is not None, "the encoder always passes them"

    batch, length, hidden = hidden_states.shape

    def heads(projection: nn.Module) -> torch.Tensor:
        return projection(hidden_states).view(batch, length, self.num_heads, self.head_dim).transpose(1, 2)

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        scores = query @ key.transpose(-1, -2) / math.sqrt(self.head_dim)
        scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
        return torch.softmax(scores, dim=-1, dtype=torch.float32).type_as(scores) @ value

    positions = torch.arange(length, device=hidden_states.device)
    is_local = (positions[:, None] - positions[None, :]).abs() <= self.one_sided_attn_window_size
    unmasked = ~is_index_masked[:, None, None, :]
    allowed = (is_local[None, None] & unmasked) | is_index_global_attn[:, None, None, :]
    local = attend(heads(self.query), heads(self.key), heads(self.value), allowed)
    local = local.masked_fill(is_index_masked[:, None, :, None], 0.0)
    global_ = attend(heads(self.query_global), heads(self.key_global), heads(self.value_global), unmasked)
    mixed = torch.where(is_index_global_attn[:, None, :, None], global_, local)
    return (mixed.transpose(1, 2).reshape(batch, length, hidden),)
