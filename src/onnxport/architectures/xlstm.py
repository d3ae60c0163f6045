"""Describe xLSTM's cache as inputs and outputs.

A layer caches the sum of values (the memory), the sum of keys, and the exponent of both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, Tiny, when_generating
from onnxport.description.cache_layout import CacheLayout, CacheTensor
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel
    from transformers.models.xlstm.modeling_xlstm import xLSTMBackend

    States = tuple[torch.Tensor, ...]


class XlstmOnnxConfig(DerivedOnnxConfig):
    """Describe xLSTM for generation, with or without its states."""

    def parameters_of(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Return the model's parameters and `attention_mask`, which it ignores."""
        return (*super().parameters_of(model), "attention_mask")

    def describe_cache(self, model: PreTrainedModel, cache: Any) -> CacheLayout:
        """Describe the states of every layer."""
        layers = tuple(
            tuple(
                CacheTensor(layer, "recurrent_states", "recurrent", tuple(state.shape[1:]), index)
                for index, state in enumerate(states)
            )
            for layer, states in cache.rnn_state.items()
        )
        return CacheLayout(layers, len(layers))

    def past_to_cache(self, past: Any, arguments: Mapping[str, Any]) -> Any:
        """Return an object with the attributes of the model's cache class."""
        states = {layer: tuple(state.clone() for state in states) for layer, states in enumerate(past)}
        return SimpleNamespace(rnn_state=states, seqlen_offset=0)

    def cache_to_past(self, cache: Any) -> Any:
        """Return the states of every layer."""
        return list(cache.rnn_state.values())


def _scanned(_: object) -> Callable[..., tuple[torch.Tensor, States]]:
    """Return `scan_tokens` as the replacement of a forward."""
    return scan_tokens


def scan_tokens(
    self: xLSTMBackend,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    igate: torch.Tensor,
    fgate: torch.Tensor,
    **initial: torch.Tensor | None,
) -> tuple[torch.Tensor, States]:
    """Compute `xLSTMBackend.forward` as a scan over tokens.

    Args:
        self: the module; `eps` of its configuration is added to the denominator.
        query: [batch, heads, tokens, key_size].
        key: [batch, heads, tokens, key_size].
        value: [batch, heads, tokens, value_size].
        igate: logarithm of the input gate, [batch, heads, tokens].
        fgate: forget gate before the sigmoid, [batch, heads, tokens].
        **initial: `c_initial`, `n_initial` and `m_initial`, the initial states; zeros by default.

    Returns:
        Outputs, [batch, heads, tokens, value_size], and the final states.
    """
    import torch
    from torch._higher_order_ops.scan import scan

    batch, heads, _, size = key.shape
    shapes = {"c_initial": (size, value.shape[-1]), "n_initial": (size,), "m_initial": (1,)}
    passed = [initial.get(name) for name in shapes]
    zeros = [torch.zeros(batch, heads, *shape, device=key.device) for shape in shapes.values()]
    first = tuple(zero if state is None else state.float() for state, zero in zip(passed, zeros, strict=True))
    gates = (igate[..., None], torch.nn.functional.logsigmoid(fgate)[..., None])
    tokens = (query * size**-0.5, key, value, *gates, torch.full_like(gates[0], self.config.eps))
    states, outputs = scan(_step, first, tuple(t.float().permute(2, 0, 1, 3).contiguous() for t in tokens))
    return outputs.permute(1, 2, 0, 3).to(value.dtype), states


def _step(states: States, token: States) -> tuple[States, torch.Tensor]:
    import torch

    (memory, keys, exponent), (query, key, value, igate, log_fgate, eps) = states, token
    maximum = torch.maximum(log_fgate + exponent, igate)
    forget, write = torch.exp(log_fgate + exponent - maximum), torch.exp(igate - maximum)
    memory = forget[..., None] * memory + write[..., None] * (key[..., :, None] * value[..., None, :])
    keys = forget * keys + write * key
    numerator = (query[..., None, :] @ memory)[..., 0, :]
    denominator = torch.maximum((query * keys).sum(-1, keepdim=True).abs(), torch.exp(-maximum)) + eps
    return (memory, keys, maximum), numerator / denominator


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("xlstm",),
        model=when_generating(XlstmOnnxConfig),
        tiny=Tiny({"hidden_size": 128}),
        patches=(
            Patch(
                "transformers.models.xlstm.modeling_xlstm:xLSTMBackend.forward",
                _scanned,
                "a loop over the chunks of a sequence, and over the remaining tokens, specializes its length",
                EAGER,
                "torch.export converts such a loop to a scan",
            ),
        ),
    ),
)
