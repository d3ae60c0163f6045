"""Qwen4 (experimental): select the blocks of its sparse attention for all queries at once.

Transformers' indexer loops over the sequences and queries of a batch.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, Tiny, always
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel
    from transformers.cache_utils import Cache
    from transformers.models.qwen4_exp.modeling_qwen4_exp import Qwen4ExpTextQSAIndexer

    from onnxport.description.cache_layout import CacheLayout


class IndexedTextOnnxConfig(DerivedOnnxConfig):
    """Describe a text decoder whose cache also has the position ids of cached tokens, counted from the mask."""

    def describe_cache(self, model: PreTrainedModel, cache: Any) -> CacheLayout:
        """Describe the cache without the position ids; see `DerivedOnnxConfig`."""
        for layer in cache.layers:
            layer.indexer_position_ids = None
        return super().describe_cache(model, cache)

    def past_to_cache(self, past: Any, arguments: Mapping[str, Any]) -> Any:
        """Build the cache, with position ids, [3, batch, past], in its first layer with an indexer."""
        cache = super().past_to_cache(past, arguments)
        layer = next(layer for layer in cache.layers if getattr(layer, "indexer_keys", None) is not None)
        mask, cached = arguments["attention_mask"], layer.indexer_keys.shape[1]
        positions = (mask[:, :cached].cumsum(-1) - 1).clamp_min(0)
        layer.indexer_position_ids = positions.expand(3, -1, -1)
        return cache


def _index_all_queries(_: object) -> Callable[..., torch.Tensor]:
    """Return the mask of the keys that each query attends to: its top-k blocks, and the keys after its last full block.

    Attention is causal, so the full blocks of every query are a prefix of the blocks of the last query.
    """

    def forward(
        self: Qwen4ExpTextQSAIndexer,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor,
        cache: Cache | None,
        **_: Any,
    ) -> torch.Tensor:
        import torch

        batch, queries = hidden_states.shape[:2]
        heads, size, block = self.index_n_heads, self.index_head_dim, self.compress_ratio
        cosine, sine = position_embeddings
        split = [heads * size, self.index_kv_heads * size]
        query, keys = self.index_qk_proj(hidden_states).split(split, dim=-1)
        if cache is not None:
            keys = cache.update_indexer(keys, self.layer_idx)
        rotate = sys.modules[type(self).__module__].apply_rotary_pos_emb
        query = self.q_layernorm(query.reshape(batch, queries, heads, size))
        query = rotate(query, cos=cosine[:, -queries:], sin=sine[:, -queries:], unsqueeze_dim=2)

        allowed = attention_mask[:, 0] if attention_mask.dtype == torch.bool else attention_mask[:, 0] == 0
        full_blocks = allowed.sum(-1, keepdim=True) // block  # [batch, queries, 1]
        valid = allowed[:, -1]
        position = (valid.long().cumsum(-1) - 1).clamp(min=0)  # [batch, keys]
        blocks = torch.arange((keys.shape[1] + block - 1) // block, device=keys.device)
        members = valid[:, None] & (position[:, None] // block == blocks[:, None])  # [batch, blocks, keys]
        starts = (members & (position[:, None] % block == 0)).long().argmax(-1)
        pooled = self.k_layernorm((members.float() @ keys.float() / block).to(keys.dtype))
        first = starts[..., None].expand(-1, -1, cosine.shape[-1])
        pooled = rotate(pooled[:, :, None], cos=cosine.gather(1, first), sin=sine.gather(1, first), unsqueeze_dim=2)

        scores = query.float() @ pooled.float().permute(0, 2, 3, 1)  # [batch, queries, heads, blocks]
        scores = scores.relu().sum(2) / math.sqrt(size)
        scores = scores.masked_fill(blocks >= full_blocks, -torch.inf)  # [batch, queries, blocks]
        selected = scores.argsort(dim=-1, descending=True).argsort(dim=-1) < self.block_topk
        block_of_key = (position // block)[:, None].expand(-1, queries, -1)
        return (allowed & (selected.gather(-1, block_of_key) | (block_of_key >= full_blocks)))[:, None]

    return forward


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("qwen4_exp_text",),
        model=always(IndexedTextOnnxConfig),
        tiny=Tiny(
            fields={
                "indexer_n_heads": 2,
                "indexer_kv_heads": 1,
                "indexer_head_dim": 8,
                "indexer_budget": 512,  # more than there are tokens: runtimes break ties differently
                "indexer_compress_ratio": 4,
            }
        ),
        patches=(
            Patch(
                "transformers.models.qwen4_exp.modeling_qwen4_exp:Qwen4ExpTextQSAIndexer.forward",
                _index_all_queries,
                "a loop over sequences and queries, whose numbers of blocks are data-dependent, can't be exported",
                EAGER,
                "Transformers selects blocks for all queries at once",
            ),
        ),
    ),
)
