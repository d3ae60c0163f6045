"""DeepSeek V4: attention to compressed windows of tokens, whose number decides which code runs.

Transformers branches on whether a text has a complete window, several, and as many as the indexer selects. A graph has
one branch: windows of padding are added, so that there are always several, and masked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, when_generating
from onnxport.architectures._symbolic import symbolic_min
from onnxport.description.cache_layout import CacheLayout, CacheTensor
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.patching.patch import EAGER, Patch, Replacement
from onnxport.patching.scope import patching

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_MODULE = "transformers.models.deepseek_v4.modeling_deepseek_v4"
_SPARSE, _HEAVY = "compressed_sparse_attention", "heavily_compressed_attention"
"""Types of layers with windows; those of the first have an indexer."""
_WINDOWS = 2
"""Windows of padding: the code for one differs from that for several."""
_LAST = 2**40
"""A position after all windows."""


class DeepseekV4OnnxConfig(DerivedOnnxConfig):
    """Describe DeepSeek V4 for generation, whose cache has what its compressors and indexers compress."""

    def describe_cache(self, model: PreTrainedModel, cache: Any) -> CacheLayout:
        """Describe the cache of every layer: keys, which are also the values, and projections and gates of tokens."""
        return CacheLayout(tuple(_tensors(*item) for item in enumerate(cache.layers)), len(cache.layers))

    def past_to_cache(self, past: Any, arguments: Mapping[str, Any]) -> Any:
        """Build the cache; see `OnnxConfig`."""
        from transformers.cache_utils import DynamicCache

        cache = DynamicCache()
        cache.layers = [
            self._layer({part.part: tensor for part, tensor in zip(parts, tensors, strict=True)})
            for parts, tensors in zip(self._cache_layout.layers, past, strict=True)
        ]
        return cache

    def _layer(self, tensors: dict[str, torch.Tensor]) -> Any:
        from onnxport.architectures._compressed_cache import CompressedLayer

        sparse, heavy = (self._config.compress_rates[kind] for kind in (_SPARSE, _HEAVY))
        return CompressedLayer(tensors, sparse if "indexer_kv" in tensors else heavy)


def _tensors(index: int, layer: Any) -> tuple[CacheTensor, ...]:
    """Return the tensors of a layer of Transformers' cache."""
    found = [CacheTensor(index, "keys", "key", tuple(layer.keys.shape[1:]))]
    for name in getattr(layer, "buffer_kv", ()):
        for part, states in (("kv", layer.buffer_kv), ("gate", layer.buffer_gate)):
            shape = tuple(states[name].shape[1:])
            found.append(CacheTensor(index, f"{name}_{part}", f"{name}.{part}", shape))
    return tuple(found)


def _with_padding(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a compressor's forward that compresses windows of padding after those of the tokens.

    Without a cache it gets one of its own. Transformers doesn't mask windows if there is one token: all complete ones
    are before it, also if padding makes its position a smaller one.
    """

    def padded_forward(
        self: Any,
        hidden_states: torch.Tensor,
        q_residual: torch.Tensor,
        position_ids: torch.Tensor,
        cache: Any,
        layer_idx: int,
    ) -> Any:
        import torch

        from onnxport.architectures._compressed_cache import CompressedLayer

        if cache is None:
            cache = SimpleNamespace(layers={layer_idx: CompressedLayer({}, self.compress_rate)})
        layer = cache.layers[layer_idx]
        layer.padding = _WINDOWS

        def masked(scores: torch.Tensor) -> torch.Tensor:
            is_padding = torch.arange(scores.shape[-1], device=scores.device) >= layer.total // layer.compress_rate
            return scores.masked_fill(is_padding, -torch.inf)

        if hasattr(self, "indexer"):
            scorer = self.indexer.scorer
            score = scorer.forward
            replacements = [Replacement(scorer, "forward", lambda *given: masked(score(*given)))]
        else:
            is_alone = torch.zeros_like(position_ids) + hidden_states.shape[1] == 1
            position_ids = position_ids.masked_fill(is_alone, _LAST)
            replacements = []
        with patching(*replacements):
            compressed, bias = forward(self, hidden_states, q_residual, position_ids, cache, layer_idx)
        return compressed, masked(bias)

    return padded_forward


def _patch(name: str) -> Patch:
    return Patch(
        f"{_MODULE}:{name}.forward",
        _with_padding,
        "branches on the number of complete windows limit the sequence length to fewer than are traced",
        EAGER,
        "Transformers computes texts of any length by the same operations",
    )


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("deepseek_v4",),
        model=when_generating(DeepseekV4OnnxConfig),
        patches=(
            *(_patch(f"DeepseekV4{name}") for name in ("HCACompressor", "CSACompressor")),
            Patch(
                f"{_MODULE}:min",
                symbolic_min,
                "the number of windows that the indexer selects, at most `index_topk`, limits the sequence length",
                EAGER,
                "as above",
            ),
        ),
    ),
)
