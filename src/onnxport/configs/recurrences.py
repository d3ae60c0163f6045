"""Recurrences of linear attention in a form whose trace is right for any number of tokens, from any state on.

Transformers computes them chunk by chunk, with a loop over the chunks that a trace would fix at the traced length.
Validation runs Transformers' own code, so the two forms are compared with each other.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from onnxport.configs._patching import PatchingSpec

if TYPE_CHECKING:
    import torch


def patches_of(model: Any) -> list[PatchingSpec]:
    """Return the patches that put these forms in the place of those in a model's code.

    Args:
        model: a Transformers model.
    """
    modules = {name: sys.modules[name] for name in dict.fromkeys(type(part).__module__ for part in model.modules())}
    return [
        PatchingSpec(module, name, replacement)
        for module in modules.values()
        for name, replacement in _REPLACEMENTS.items()
        if hasattr(module, name)
    ]


def decayed_attention(
    hidden_states: torch.Tensor, dt: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor, **more: Any
) -> Any:
    """Compute Mamba 2's recurrence as one attention over all tokens whose scores decay.

    The state of a head decays by one factor per token, so the tokens before each other count by the product of the
    factors between them: [tokens, tokens] per head, as in any attention.

    Args:
        hidden_states: [batch, tokens, heads, head size].
        dt: size of each step, [batch, tokens, heads].
        A: decay per head, below zero.
        B: what writes the state, [batch, tokens, groups, state size].
        C: what reads the state, [batch, tokens, groups, state size].
        **more: as Transformers passes them: `D`, `dt_bias`, `dt_softplus`, `dt_limit`, `initial_states`,
            `return_final_states`.

    Returns:
        Like `hidden_states`; with `return_final_states`, and the state [batch, heads, head size, state size].
    """
    import torch
    from torch.nn import functional

    heads = hidden_states.shape[2]
    steps = dt if more.get("dt_bias") is None else dt + more["dt_bias"].to(dt.dtype)
    steps = functional.softplus(steps) if more.get("dt_softplus") else steps
    steps = torch.clamp(steps, *more.get("dt_limit", (0.0, None))).float()
    tokens = hidden_states.float().transpose(1, 2)
    writes, reads = (t.float().repeat_interleave(heads // t.shape[2], dim=2).transpose(1, 2) for t in (B, C))
    inputs = tokens * steps.transpose(1, 2)[..., None]
    decay = torch.cumsum((A.float() * steps).transpose(1, 2), dim=-1)  # of everything up to each token, in logarithms
    between = decay[..., :, None] - decay[..., None, :]
    later = torch.ones_like(between, dtype=torch.bool).triu(1)
    scores = (reads @ writes.transpose(-1, -2)) * between.masked_fill(later, float("-inf")).exp()
    output = scores @ inputs
    rest = (decay[..., -1:] - decay).exp()[..., None]
    state = (inputs * rest).transpose(-1, -2) @ writes
    if more.get("initial_states") is not None:
        first = more["initial_states"].float()
        output = output + (reads @ first.transpose(-1, -2)) * decay.exp()[..., None]
        state = state + first * decay[..., -1].exp()[..., None, None]
    output = output.transpose(1, 2)
    if more.get("D") is not None:
        output = output + more["D"][..., None] * hidden_states.float()
    return (output, state) if more.get("return_final_states") else output


def gated_delta_rule(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, g: torch.Tensor, beta: torch.Tensor, **more: Any
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compute the gated delta rule token by token.

    Args:
        query: [batch, tokens, key heads, key size].
        key: like `query`.
        value: [batch, tokens, heads, value size].
        g: logarithm of each token's decay, [batch, tokens, heads].
        beta: how much each token overwrites, like `g`.
        **more: as Transformers passes them: `initial_state`, `output_final_state`, `use_qk_l2norm_in_kernel`.

    Returns:
        Like `value`, and the state [batch, heads, key size, value size] where it is asked for.
    """
    import torch
    from torch._higher_order_ops.scan import scan

    query, key = (t.repeat_interleave(value.shape[2] // t.shape[2], dim=2).float() for t in (query, key))
    if more.get("use_qk_l2norm_in_kernel"):
        query, key = (t * torch.rsqrt((t * t).sum(-1, keepdim=True) + 1e-6) for t in (query, key))
    first = more.get("initial_state")
    if first is None:
        first = torch.zeros(value.shape[0], value.shape[2], key.shape[3], value.shape[3], device=value.device)
    tokens = (query * query.shape[-1] ** -0.5, key, value.float(), g.float().exp(), beta.float())
    state, outputs = scan(_overwrite, first.float(), tuple(t.transpose(0, 1).contiguous() for t in tokens))
    return outputs.transpose(0, 1).to(value.dtype), state if more.get("output_final_state") else None


def _overwrite(state: torch.Tensor, token: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    query, key, value, decay, beta = token
    state = state * decay[..., None, None]
    known = (key[..., None, :] @ state)[..., 0, :]
    state = state + key[..., :, None] * ((value - known) * beta[..., None])[..., None, :]
    return state, (query[..., None, :] @ state)[..., 0, :]


_REPLACEMENTS: dict[str, Callable[..., Any]] = {
    "mamba2_chunk_scan": decayed_attention,
    "torch_chunk_gated_delta_rule": gated_delta_rule,
}
"""Names of functions in Transformers' models to what computes the same."""
