"""xLSTM: its description, and its recurrence in a form whose trace is right for any number of tokens.

A layer remembers the sum of what it wrote, the sum of what it wrote it with, and the exponent of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from onnxport.configs import PatchingSpec
from onnxport.configs.derived import DerivedOnnxConfig
from onnxport.configs.states import CacheStates, Remembered

if TYPE_CHECKING:
    import torch


class XlstmOnnxConfig(DerivedOnnxConfig):
    """Describe xLSTM for generation, with its states or without."""

    def parameters_of(self, model: Any) -> tuple[str, ...]:
        """Name what the model takes: also a mask, which it doesn't look at."""
        return (*super().parameters_of(model), "attention_mask")

    def patches_of(self, model: Any) -> list[PatchingSpec]:
        """Return the recurrence that goes token by token."""
        from transformers.models.xlstm import modeling_xlstm as modeling

        return [PatchingSpec(modeling.xLSTMBackend, "forward", remember)]

    def describe_states(self, model: Any, cache: Any) -> CacheStates:
        """Describe the states of every layer."""
        layers = tuple(
            tuple(
                Remembered(layer, "recurrent_states", "recurrent", tuple(state.shape[1:]), number)
                for number, state in enumerate(states)
            )
            for layer, states in cache.rnn_state.items()
        )
        return CacheStates(layers, len(layers))

    def past_to_cache(self, past: Any, arguments: Mapping[str, Any]) -> Any:
        """Return what the model takes for its cache."""
        states = {layer: tuple(state.clone() for state in states) for layer, states in enumerate(past)}
        return SimpleNamespace(rnn_state=states, seqlen_offset=0)

    def cache_to_past(self, cache: Any) -> Any:
        """Return the states of every layer."""
        return list(cache.rnn_state.values())


def remember(
    self: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    igate: torch.Tensor,
    fgate: torch.Tensor,
    **initial: Any,
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Compute `xLSTMBackend.forward` token by token.

    Args:
        self: the module, whose configuration says the least denominator.
        query: [batch, heads, tokens, key size].
        key: like `query`.
        value: [batch, heads, tokens, value size].
        igate: logarithm of how much a token writes, [batch, heads, tokens].
        fgate: what makes how much is kept, like `igate`.
        **initial: `c_initial`, `n_initial` and `m_initial`, the states before the first token; zeros without.

    Returns:
        Like `value`, and the states.
    """
    import torch
    from torch._higher_order_ops.scan import scan

    batch, heads, _, size = key.shape
    shapes = {"c_initial": (size, value.shape[-1]), "n_initial": (size,), "m_initial": (1,)}
    given = [initial.get(name) for name in shapes]
    zeros = [torch.zeros(batch, heads, *shape, device=key.device) for shape in shapes.values()]
    first = tuple(zero if state is None else state.float() for state, zero in zip(given, zeros, strict=True))
    gates = (igate[..., None], torch.nn.functional.logsigmoid(fgate)[..., None])
    tokens = (query * size**-0.5, key, value, *gates, torch.full_like(gates[0], self.config.eps))
    states, outputs = scan(_write, first, tuple(t.float().permute(2, 0, 1, 3).contiguous() for t in tokens))
    return outputs.permute(1, 2, 0, 3).to(value.dtype), states


def _write(
    states: tuple[torch.Tensor, ...], token: tuple[torch.Tensor, ...]
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    import torch

    (written, keys, exponent), (query, key, value, gate, decay, least) = states, token
    most = torch.maximum(decay + exponent, gate)
    kept, own = torch.exp(decay + exponent - most), torch.exp(gate - most)
    written = kept[..., None] * written + own[..., None] * (key[..., :, None] * value[..., None, :])
    keys = kept * keys + own * key
    read = (query[..., None, :] @ written)[..., 0, :]
    share = torch.maximum((query * keys).sum(-1, keepdim=True).abs(), torch.exp(-most)) + least
    return (written, keys, most), read / share
