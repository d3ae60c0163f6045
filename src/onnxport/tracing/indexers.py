"""Attention that chooses blocks of tokens: all texts and queries at once, where Transformers loops over them."""

from __future__ import annotations

import math
import sys
from typing import Any

from onnxport.patching.patch import Patch


def _chosen_at_once(_: Any) -> Any:
    """Say which tokens each query looks at: those of its best blocks, and those after its last whole block.

    A query sees the tokens before it, so that the blocks of the last query are those of all: whole or not yet begun.
    """

    def forward(
        self: Any, hidden_states: Any, position_embeddings: Any, attention_mask: Any, past_key_values: Any
    ) -> Any:
        import torch

        batch, queries, _ = hidden_states.shape
        heads, size, block = self.index_n_heads, self.index_head_dim, self.compress_ratio
        cosine, sine = position_embeddings
        split = [heads * size, self.index_kv_heads * size]
        states, keys = self.index_qk_proj(hidden_states).split(split, dim=-1)
        if past_key_values is not None:
            keys = past_key_values.update_indexer(keys, self.layer_idx)
        rotate = sys.modules[type(self).__module__].apply_rotary_pos_emb
        states = self.q_layernorm(states.reshape(batch, queries, heads, size))
        states = rotate(states, cos=cosine[:, -queries:], sin=sine[:, -queries:], unsqueeze_dim=2)

        seen = attention_mask[:, 0] if attention_mask.dtype == torch.bool else attention_mask[:, 0] == 0
        whole = seen.sum(-1, keepdim=True) // block  # [batch, queries, 1]
        visible = seen[:, -1]
        number = (visible.long().cumsum(-1) - 1).clamp(min=0)  # [batch, keys]
        blocks = torch.arange((keys.shape[1] + block - 1) // block, device=keys.device)
        parts = visible[:, None] & (number[:, None] // block == blocks[:, None])  # [batch, blocks, keys]
        starts = (parts & (number[:, None] % block == 0)).long().argmax(-1)
        pooled = self.k_layernorm((parts.float() @ keys.float() / block).to(keys.dtype))
        first = starts[..., None].expand(-1, -1, cosine.shape[-1])
        pooled = rotate(pooled[:, :, None], cos=cosine.gather(1, first), sin=sine.gather(1, first), unsqueeze_dim=2)

        scores = states.float() @ pooled.float().permute(0, 2, 3, 1)  # [batch, queries, heads, blocks]
        scores = scores.relu().sum(2) / math.sqrt(size)
        scores = scores.masked_fill(blocks >= whole, -torch.inf)  # [batch, queries, blocks]
        best = scores.argsort(dim=-1, descending=True).argsort(dim=-1) < self.block_topk
        own = (number // block)[:, None].expand(-1, queries, -1)
        return (seen & (best.gather(-1, own) | (own >= whole)))[:, None]

    return forward


INDEXERS: tuple[Patch, ...] = (
    Patch(
        "transformers.models.qwen4_exp.modeling_qwen4_exp:Qwen4ExpTextQSAIndexer.forward",
        _chosen_at_once,
        "a loop over texts and queries, each with as many blocks as it sees tokens, depends on values",
        "Transformers chooses for all of them at once",
    ),
)
"""For models that may not be imported."""
