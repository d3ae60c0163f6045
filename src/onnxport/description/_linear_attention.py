"""Recurrences of linear attention in a form whose trace holds for any sequence length and any initial state.

Transformers computes them by chunks, in a Python loop that a trace would unroll for the traced length. Validation runs
Transformers' code, so it compares the two forms with each other.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

from onnxport._transformers_api import cache_argument
from onnxport.configs._patching import PatchingSpec

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def patches_of(model: PreTrainedModel) -> list[PatchingSpec]:
    """Return the patches that replace the recurrences in a model's code with these forms.

    Args:
        model: a Transformers model.
    """
    specs = [
        PatchingSpec(module, name, replacement)
        for module in _modules(model)
        for name, replacement in _REPLACEMENTS.items()
        if hasattr(module, name)
    ]
    scans = [module for module in _modules(model) if hasattr(module, _STATELESS_SCAN)]
    for module in scans:
        state: list[Any] = []
        specs.append(PatchingSpec(module, _STATELESS_SCAN, partial(selective_scan, state=state)))
        mixers = {type(layer) for layer in model.modules() if hasattr(layer, "A_log")}
        specs += [PatchingSpec(mixer, "forward", _with_initial_state(mixer.forward, state)) for mixer in mixers]
    return specs


def drops_state(model: PreTrainedModel) -> bool:
    """Return whether a model's code drops its recurrent state if it gets several tokens at once, as Mamba 1's does."""
    return any(hasattr(module, _STATELESS_SCAN) for module in _modules(model))


def _modules(model: PreTrainedModel) -> list[Any]:
    return [sys.modules[name] for name in dict.fromkeys(type(part).__module__ for part in model.modules())]


def _with_initial_state(forward: Callable[..., Any], state: list[Any]) -> Callable[..., Any]:
    """Return a layer's forward that passes its recurrent state to the scan inside it through a list.

    Transformers calls the scan without an initial state.
    """

    @wraps(forward)
    def wrapped(self: Any, hidden_states: Any, *arguments: Any, **named: Any) -> Any:
        cache = cache_argument({"cache": next(iter(arguments), None), **named})
        first = None if cache is None else cache.get_recurrent_state(self.layer_idx)
        if first is not None:
            state[:] = first.unbind(1) if first.dim() == 4 else [first]  # Zamba scans each head separately
        return forward(self, hidden_states, *arguments, **named)

    return wrapped


def decayed_attention(
    hidden_states: torch.Tensor, dt: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor, **more: Any
) -> Any:
    """Compute Mamba 2's recurrence as one attention over all tokens, with decaying scores.

    The state of a head decays by one factor per token, so the score of two tokens is multiplied by the product of the
    factors between them: [tokens, tokens] per head, as in any attention.

    Args:
        hidden_states: [batch, tokens, heads, head size].
        dt: step size, [batch, tokens, heads].
        A: negative decay rate, [heads].
        B: input matrix of the state space, [batch, tokens, groups, state size].
        C: output matrix of the state space, [batch, tokens, groups, state size].
        **more: as Transformers passes them: `D`, `dt_bias`, `dt_softplus`, `dt_limit`, `initial_states`,
            `return_final_states`.

    Returns:
        The output, shaped like `hidden_states`; with `return_final_states`, a tuple of it and the final state, [batch,
        heads, head size, state size].
    """
    import torch
    from torch.nn import functional

    heads = hidden_states.shape[2]
    steps = dt if more.get("dt_bias") is None else dt + more["dt_bias"].to(dt.dtype)
    steps = functional.softplus(steps) if more.get("dt_softplus") else steps
    steps = torch.clamp(steps, *more.get("dt_limit", (0.0, None))).float()
    tokens = hidden_states.float().transpose(1, 2)
    keys, queries = (t.float().repeat_interleave(heads // t.shape[2], dim=2).transpose(1, 2) for t in (B, C))
    inputs = tokens * steps.transpose(1, 2)[..., None]
    decay = torch.cumsum((A.float() * steps).transpose(1, 2), dim=-1)  # logarithm of the decay up to each token
    between = decay[..., :, None] - decay[..., None, :]
    later = torch.ones_like(between, dtype=torch.bool).triu(1)
    scores = (queries @ keys.transpose(-1, -2)) * between.masked_fill(later, float("-inf")).exp()
    output = scores @ inputs
    rest = (decay[..., -1:] - decay).exp()[..., None]
    state = (inputs * rest).transpose(-1, -2) @ keys
    if more.get("initial_states") is not None:
        first = more["initial_states"].float()
        output = output + (queries @ first.transpose(-1, -2)) * decay.exp()[..., None]
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
        key: [batch, tokens, key heads, key size].
        value: [batch, tokens, heads, value size].
        g: logarithm of each token's decay, [batch, tokens, heads], or [batch, tokens, heads, key size] if it differs by
            row of the state.
        beta: update rate of each token, [batch, tokens, heads].
        **more: as Transformers passes them: `initial_state`, `output_final_state`, `use_qk_l2norm_in_kernel`.

    Returns:
        The output, shaped like `value`, and with `output_final_state` the final state, [batch, heads, key size, value
        size], otherwise None.
    """
    import torch
    from torch._higher_order_ops.scan import scan

    query, key = (t.repeat_interleave(value.shape[2] // t.shape[2], dim=2).float() for t in (query, key))
    if more.get("use_qk_l2norm_in_kernel"):
        query, key = (t * torch.rsqrt((t * t).sum(-1, keepdim=True) + 1e-6) for t in (query, key))
    first = more.get("initial_state")
    if first is None:
        first = torch.zeros(value.shape[0], value.shape[2], key.shape[3], value.shape[3], device=value.device)
    decay = (g if g.dim() == key.dim() else g[..., None]).float().exp()
    tokens = (query * query.shape[-1] ** -0.5, key, value.float(), decay, beta.float())
    state, outputs = scan(_delta_rule_step, first.float(), tuple(t.transpose(0, 1).contiguous() for t in tokens))
    return outputs.transpose(0, 1).to(value.dtype), state if more.get("output_final_state") else None


def selective_scan(
    hidden_states: torch.Tensor, dt: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor, **more: Any
) -> Any:
    """Compute Mamba 1's recurrence token by token.

    Args:
        hidden_states: [batch, size, tokens].
        dt: step size, [batch, size, tokens].
        A: negative decay rate, [size, state size].
        B: input matrix of the state space, [batch, state size, tokens].
        C: output matrix of the state space, [batch, state size, tokens].
        **more: as Transformers passes them: `D`, `z`, `delta_bias`, `delta_softplus`, `return_last_state`; and
            `state`, a list whose first item is the initial state, or an empty list.

    Returns:
        The output, shaped like `hidden_states`; with `return_last_state`, a tuple of it and the last state, [batch,
        size, state size].
    """
    import torch
    from torch._higher_order_ops.scan import scan
    from torch.nn import functional

    steps = dt if more.get("delta_bias") is None else dt + more["delta_bias"].to(dt.dtype)[..., None]
    steps = (functional.softplus(steps) if more.get("delta_softplus") else steps).float().permute(2, 0, 1)[..., None]
    first = more["state"].pop(0) if more["state"] else None
    if first is None:
        first = torch.zeros(hidden_states.shape[0], *A.shape, device=A.device)
    inputs = steps * B.float().permute(2, 0, 1)[:, :, None, :] * hidden_states.float().permute(2, 0, 1)[..., None]
    tokens = (torch.exp(steps * A), inputs, C.float().permute(2, 0, 1).contiguous())
    state, outputs = scan(_selective_scan_step, first.float().contiguous(), tokens)
    output = outputs.permute(1, 2, 0)
    if more.get("D") is not None:
        output = output + hidden_states * more["D"][None, :, None]
    if more.get("z") is not None:
        output = output * functional.silu(more["z"])
    return (output, state) if more.get("return_last_state") else output


def _selective_scan_step(state: torch.Tensor, token: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    decay, inputs, output_matrix = token
    state = state * decay + inputs
    return state, (state @ output_matrix[..., None])[..., 0]


def _delta_rule_step(state: torch.Tensor, token: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    query, key, value, decay, beta = token
    state = state * decay[..., None]
    predicted = (key[..., None, :] @ state)[..., 0, :]
    state = state + key[..., :, None] * ((value - predicted) * beta[..., None])[..., None, :]
    return state, (query[..., None, :] @ state)[..., 0, :]


_REPLACEMENTS: dict[str, Callable[..., Any]] = {
    "mamba2_chunk_scan": decayed_attention,
    "torch_chunk_gated_delta_rule": gated_delta_rule,
    "chunk_kimi_delta_attention": gated_delta_rule,
}
"""Names of functions in Transformers' modeling files to their replacements."""
_STATELESS_SCAN = "mamba_selective_scan"
"""Mamba 1's scan in Transformers, which always starts from a zero state."""
