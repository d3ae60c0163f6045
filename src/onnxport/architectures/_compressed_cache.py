"""A layer of DeepSeek V4's cache that keeps all tokens, so that a step of any length takes the same operations.

Transformers' keeps compressed windows, and the tokens and half windows that the next one needs: how many depends on the
position. This one keeps what is compressed, and each step compresses all of it. transformers.js names such a cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from transformers.cache_utils import DynamicLayer


class CompressedLayer(DynamicLayer):  # type: ignore[misc]
    """Hold keys, which are also the values, and the projections and gates of a compressor and an indexer.

    Args:
        tensors: its tensors by the name of their attribute: `keys`, [batch, 1, tokens, head size], and projections and
            gates such as `compressor_kv` and `compressor_gate`, [batch, tokens, size]; empty for no tokens.
        compress_rate: number of tokens in a window; without effect if there are none.

    Attributes:
        padding: number of windows of padding that are compressed after those of the tokens.
        total: number of tokens, those of the current step included.
    """

    keys: torch.Tensor

    def __init__(self, tensors: dict[str, torch.Tensor], compress_rate: int) -> None:
        super().__init__()
        self.compress_rate, self.padding, self.total = compress_rate, 0, 0
        for name, tensor in tensors.items():
            setattr(self, name, tensor)
        if "keys" in tensors:
            self.values, self.is_initialized = self.keys, True
            self.dtype, self.device = self.keys.dtype, self.keys.device

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        """Append the keys of a step, and return all, as keys and as values."""
        self.keys = self.values = torch.cat([self.keys, key_states], dim=2)
        return self.keys, self.values

    def store_compression_weights(
        self, name: str, kv: torch.Tensor, gate: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Append the projections and gates of a step, and return those of all complete windows, and 0, their position.

        Args:
            name: `compressor` or `indexer`.
            kv: projections, [batch, tokens, size].
            gate: gates, [batch, tokens, size].
        """
        whole = []
        for part, states in (("kv", kv), ("gate", gate)):
            past = getattr(self, f"{name}_{part}", None)
            states = states if past is None else torch.cat([past, states], dim=1)
            setattr(self, f"{name}_{part}", states)
            self.total = states.shape[1]
            windows = self.total // self.compress_rate + self.padding
            padded = functional.pad(states, (0, 0, 0, self.padding * self.compress_rate))
            whole.append(padded[:, : windows * self.compress_rate])
        return whole[0], whole[1], 0

    def update_compressor_states(self, name: str, compressed: torch.Tensor) -> torch.Tensor:
        """Return the compressed windows, which are all."""
        return compressed

    def update_overlap_state(self, *_: Any) -> tuple[None, None]:
        """Return nothing before the first window, which is that of the text."""
        return None, None
