"""Fixes of the capture that keep a text's length free, in models whose code counts it in Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnxport.patching.patch import Patch

if TYPE_CHECKING:
    import torch


def _memoize(
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


def _masked_by_places(_: Any) -> Any:
    """Count a text's places in a tensor, not in a list."""

    def mask(self: Any, input_ids: torch.Tensor, span: Any, context: torch.Tensor, length: torch.Tensor) -> Any:
        import torch

        place = torch.arange(input_ids.shape[1], device=input_ids.device)
        before = place <= place[:, None]
        context = context.bool()
        seen = context[:, None, :] | (~context[:, :, None] & before)
        seen = seen & (span[:, None, :] == span[:, :, None])
        is_text = (place < self.prompt_length) | (input_ids.shape[1] - 1 - place < length[:, None])  # padded in front
        return is_text[:, :, None] & is_text[:, None, :] & seen

    return mask


def _token_by_token(_: Any) -> Any:
    """Compute a recurrence as a scan.

    The replacement takes what is added, [batch, tokens, width], what is kept of the state, of the same shape, where
    nothing is kept, [batch, tokens, 1], and the state so far, [batch, width], zeros without; it returns the states
    after each token, [batch, tokens, width], and the last one.
    """

    def rnn_scan(
        self: Any,
        hidden_states: torch.Tensor,
        recurrent_gate: torch.Tensor,
        reset: torch.Tensor,
        recurrent_states: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        import torch
        from torch._higher_order_ops.scan import scan

        kept = (recurrent_gate * ~reset).float().transpose(0, 1).contiguous()
        added = hidden_states.float().transpose(0, 1).contiguous()
        first = torch.zeros_like(added[0]) if recurrent_states is None else recurrent_states.float().contiguous()
        last, states = scan(_keep_and_add, first, (kept, added))
        return states.transpose(0, 1).to(hidden_states.dtype), last

    return rnn_scan


def _keep_and_add(state: torch.Tensor, token: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    kept, added = token
    state = state * kept + added
    return state, state.clone()


LENGTHS: tuple[Patch, ...] = (
    Patch(
        "transformers.models.xlstm.modeling_xlstm:xLSTMBackend.forward",
        lambda _: _memoize,
        "a loop over a text's chunks, and over what is left of it, fixes its length",
        "torch.export makes a scan of such a loop",
    ),
    Patch(
        "transformers.models.cpmant.modeling_cpmant:CpmAntModel._prepare_attention_mask",
        _masked_by_places,
        "a list of a text's places fixes its length",
        "Transformers counts them with arange",
    ),
    Patch(
        "transformers.models.recurrent_gemma.modeling_recurrent_gemma:RecurrentGemmaRglru._rnn_scan",
        _token_by_token,
        "a loop over a text's tokens fixes its length",
        "torch.export makes a scan of such a loop",
    ),
)
"""For models that may not be imported."""
