"""xLSTM: its recurrent states as inputs and outputs of the graph.

A layer's states are those of the mLSTM: the matrix memory, the normalizer, and the exponent that stabilizes both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, Tiny, when_generating
from onnxport.description.cache_layout import CacheLayout, CacheTensor
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel
    from transformers.models.xlstm.modeling_xlstm import xLSTMBackend, xLSTMCache

    States = tuple[torch.Tensor, ...]


class XlstmOnnxConfig(DerivedOnnxConfig):
    """Describe xLSTM for generation, with its states or without."""

    def parameters_of(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Name the model's parameters, and `attention_mask`, which it accepts and ignores."""
        return (*super().parameters_of(model), "attention_mask")

    def describe_cache(self, model: PreTrainedModel, cache: xLSTMCache) -> CacheLayout:
        """Describe the states of every layer."""
        layers = tuple(
            tuple(
                CacheTensor(layer, "recurrent_states", "recurrent", tuple(state.shape[1:]), index)
                for index, state in enumerate(states)
            )
            for layer, states in cache.rnn_state.items()
        )
        return CacheLayout(layers, len(layers))

    def past_to_cache(self, past: Sequence[States], arguments: Mapping[str, Any]) -> SimpleNamespace:
        """Build an object with the attributes of `xLSTMCache` that the model reads."""
        states = {layer: tuple(state.clone() for state in states) for layer, states in enumerate(past)}
        return SimpleNamespace(rnn_state=states, seqlen_offset=0)

    def cache_to_past(self, cache: xLSTMCache | SimpleNamespace) -> list[States]:
        """Return the states of every layer."""
        return list(cache.rnn_state.values())


def _token_by_token(_: object) -> Callable[..., tuple[torch.Tensor, States]]:
    """Return `memoize` as a forward."""
    return memoize


def memoize(
    self: xLSTMBackend,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    igate: torch.Tensor,
    fgate: torch.Tensor,
    **initial: torch.Tensor | None,
) -> tuple[torch.Tensor, States]:
    """Compute `xLSTMBackend.forward` token by token.

    Args:
        self: the module, whose configuration has `eps`, which is added to the denominator.
        query: [batch, heads, tokens, key size].
        key: like `query`.
        value: [batch, heads, tokens, value size].
        igate: logarithm of the input gate, [batch, heads, tokens].
        fgate: forget gate before the sigmoid, like `igate`.
        **initial: `c_initial`, `n_initial` and `m_initial`, the states before the first token; zeros by default.

    Returns:
        Like `value`, and the states after the last token.
    """
    import torch
    from torch._higher_order_ops.scan import scan

    batch, heads, _, size = key.shape
    shapes = {"c_initial": (size, value.shape[-1]), "n_initial": (size,), "m_initial": (1,)}
    states = [initial.get(name) for name in shapes]
    zeros = [torch.zeros(batch, heads, *shape, device=key.device) for shape in shapes.values()]
    first = tuple(zero if state is None else state.float() for state, zero in zip(states, zeros, strict=True))
    gates = (igate[..., None], torch.nn.functional.logsigmoid(fgate)[..., None])
    tokens = (query * size**-0.5, key, value, *gates, torch.full_like(gates[0], self.config.eps))
    last, outputs = scan(_step, first, tuple(t.float().permute(2, 0, 1, 3).contiguous() for t in tokens))
    return outputs.permute(1, 2, 0, 3).to(value.dtype), last


def _step(states: States, token: States) -> tuple[States, torch.Tensor]:
    import torch

    (memory, normalizer, exponent), (query, key, value, input_gate, forget_gate, eps) = states, token
    largest = torch.maximum(forget_gate + exponent, input_gate)
    forget, add = torch.exp(forget_gate + exponent - largest), torch.exp(input_gate - largest)
    memory = forget[..., None] * memory + add[..., None] * (key[..., :, None] * value[..., None, :])
    normalizer = forget * normalizer + add * key
    output = (query[..., None, :] @ memory)[..., 0, :]
    denominator = torch.maximum((query * normalizer).sum(-1, keepdim=True).abs(), torch.exp(-largest)) + eps
    return (memory, normalizer, largest), output / denominator


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("xlstm",),
        model=when_generating(XlstmOnnxConfig),
        tiny=Tiny({"hidden_size": 128}),
        patches=(
            Patch(
                "transformers.models.xlstm.modeling_xlstm:xLSTMBackend.forward",
                _token_by_token,
                "a loop over the chunks of a sequence, and over the rest, specializes its length",
                EAGER,
                "torch.export makes a scan of such a loop",
            ),
        ),
    ),
)
