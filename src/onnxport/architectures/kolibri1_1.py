"""Kolibri 1.1 (Transformers 5.25): select the keys of its sparse attention for all queries at once.

Transformers' indexer loops over groups of queries with the same first key, whose number is data-dependent.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class _Document:
    """The keys of a sequence from its first visible key on, as positions are counted in it.

    Attributes:
        start: index of the first key that isn't masked for every query, [batch, 1].
        keys: key head 0, [batch, keys, head_dim]; those after the last are repetitions of it.
        visible: whether a key isn't masked for a query, [batch, queries, keys].
        lengths: number of keys from `start` to the last that isn't masked for a query, [batch, queries, 1].
    """

    start: torch.Tensor
    keys: torch.Tensor
    visible: torch.Tensor
    lengths: torch.Tensor

    @staticmethod
    def of(keys: torch.Tensor, visible: torch.Tensor) -> _Document:
        """Move the keys of key head 0, [batch, keys, head_dim], and their mask, [batch, queries, keys], to index 0."""
        import torch

        start = visible.any(1).int().argmax(-1, keepdim=True)
        positions = torch.arange(visible.shape[-1], device=keys.device)
        index = (positions + start).clamp(max=visible.shape[-1] - 1)
        moved = keys.gather(1, index[..., None].expand(-1, -1, keys.shape[-1]))
        inside = (positions + start < visible.shape[-1])[:, None]
        kept = visible.gather(-1, index[:, None].expand(-1, visible.shape[1], -1)) & inside
        return _Document(start, moved, kept, (kept * (positions + 1)).amax(-1, keepdim=True))

    def unmoved(self, mask: torch.Tensor) -> torch.Tensor:
        """Move a mask, [batch, queries, keys], back to the positions of all keys; those before the first are masked."""
        import torch

        index = torch.arange(mask.shape[-1], device=mask.device) - self.start
        moved = mask.gather(-1, index.clamp(min=0)[:, None].expand(-1, mask.shape[1], -1))
        return moved & (index >= 0)[:, None]


def _select_for_all_queries(_: object) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Return the masks of the keys that each query attends to, and of the pool that they are selected from.

    The queries of a sequence have the same first key: sequences aren't packed.
    """

    def forward(
        self: Any,
        query_states: torch.Tensor,
        key_states: torch.Tensor,
        attention_mask: torch.Tensor,
        index_pool: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        visible = attention_mask[:, 0] if attention_mask.dtype == torch.bool else attention_mask[:, 0] == 0
        document = _Document.of(key_states[:, 0], visible)
        queries = _rounded(self, query_states[:, : self.num_heads])
        if self.is_pool_source or index_pool is None:
            index_pool = _pool(self, queries, document)
        return document.unmoved(_selected(self, queries, document, index_pool))[:, None], index_pool

    return forward


def _pool(indexer: Any, queries: torch.Tensor, document: _Document) -> torch.Tensor:
    """Return the mask of the blocks of keys with the highest scores, in positions of the document.

    A block that isn't full for a query has a score of zero.
    """
    import torch

    size, lengths = indexer.compression, document.lengths
    unmasked = document.visible.any(1)[..., None]
    count = (document.keys.shape[1] + size - 1) // size
    padded = torch.nn.functional.pad(document.keys.float() * unmasked, (0, 0, 0, count * size - document.keys.shape[1]))
    averages = padded.reshape(padded.shape[0], count, size, -1).sum(2) / size
    blocks = torch.arange(count, device=queries.device)
    scores = _scores(indexer, queries, _rounded(indexer, averages)) * (blocks < lengths // size)
    scores = scores.masked_fill(blocks >= (lengths + size - 1) // size, -torch.inf)
    chosen = _highest(scores, indexer.pool_size // size)
    of_key = torch.arange(document.keys.shape[1], device=queries.device) // size
    return document.visible & (chosen[..., of_key] | (lengths <= indexer.pool_size))


def _selected(indexer: Any, queries: torch.Tensor, document: _Document, pool: torch.Tensor) -> torch.Tensor:
    """Return the mask of the first and the last keys, and of those with the highest scores, of the document."""
    import torch

    positions, lengths = torch.arange(document.keys.shape[1], device=queries.device), document.lengths
    first, last = positions < indexer.num_sink_tokens, positions >= lengths - indexer.num_local_tokens
    scores = _scores(indexer, queries, _rounded(indexer, document.keys))
    chosen = _highest(scores.masked_fill(~pool | first | last, -torch.inf), indexer.topk)
    budget = indexer.topk + indexer.num_local_tokens + indexer.num_sink_tokens
    return document.visible & (chosen | first | last | (lengths <= budget))


def _scores(indexer: Any, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Score keys, [batch, keys, head_dim], for queries, [batch, heads, queries, head_dim]: [batch, queries, keys]."""
    return (queries @ keys.mT[:, None]).relu().sum(1) * indexer.head_weight


def _highest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Return the mask of the highest finite scores of each row; of equal ones, the first are chosen."""
    import torch

    least = torch.nn.functional.pad(scores, (0, count), value=-torch.inf).topk(count, dim=-1).values[..., -1:]
    above, equal = scores > least, (scores == least) & (scores > -torch.inf)
    return above | (equal & (equal.cumsum(-1) <= count - above.sum(-1, keepdim=True)))


def _rounded(indexer: Any, states: torch.Tensor) -> torch.Tensor:
    """Round to NVFP4 in float32."""
    return sys.modules[type(indexer).__module__].nvfp4_fake_quantize(states.float())


def _round_to_nvfp4(_: object) -> Callable[[torch.Tensor], torch.Tensor]:
    """Round to NVFP4 and back without float8, which other runtimes than the CPU's lack.

    A block of 16 values has a scale in E4M3 (3 bits of mantissa, exponents from -6) and values in E2M1: magnitudes
    that are multiples of 0.5 up to 2, of 1 up to 4, and of 2 up to 6.
    """
    import torch

    def nvfp4_fake_quantize(hidden_states: torch.Tensor) -> torch.Tensor:
        blocks = hidden_states.float().reshape(*hidden_states.shape[:-1], -1, 16)
        scale = (blocks.abs().amax(-1, keepdim=True) / 6).clamp(2.0**-9, 448.0)
        step = 2.0 ** (scale.log2().floor().clamp(min=-6.0) - 3)
        scale = torch.round(scale / step) * step
        scaled = blocks / scale
        magnitude = scaled.abs().clamp(max=6.0)
        step_of_value = torch.where(magnitude < 2, 0.5, torch.where(magnitude < 4, 1.0, 2.0))
        rounded = torch.round(magnitude / step_of_value) * step_of_value * scaled.sign()
        return (rounded * scale).flatten(-2).to(hidden_states.dtype)

    return nvfp4_fake_quantize


_TINY: dict[str, Any] = {
    "head_dim": 16,
    "layer_types": ["sliding_attention", "indexed_attention", "indexed_attention", "indexed_attention"],
    "index_layers": [1, 3],
    "kv_source_layers": [0, 1, 1, 3],
    "mlp_only_layers": [0],
    "index_topk": 4,
    "index_pool_size": 8,
    "index_compression": 2,
    "index_num_heads": 1,
    "index_num_local_tokens": 2,
    "index_num_sink_tokens": 1,
}
ARCHITECTURES = (
    Architecture(
        ("kolibri1_1",),
        patches=(
            Patch(
                "transformers.models.kolibri1_1.modeling_kolibri1_1:Kolibri1_1Indexer.forward",
                _select_for_all_queries,
                "a loop over groups of queries, whose number is data-dependent, can't be exported",
                EAGER,
                "Transformers selects keys for all queries at once",
            ),
            Patch(
                "transformers.models.kolibri1_1.modeling_kolibri1_1:nvfp4_fake_quantize",
                _round_to_nvfp4,
                "the converter has no translation for a clamp between a float and an integer",
                EAGER,
                "Transformers rounds without float8",
            ),
        ),
        tiny=Tiny(fields=_TINY),
    ),
)
