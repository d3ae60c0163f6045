"""Compute mixtures of experts without the loop over the experts that were hit, for the patches of such models.

If the experts are stacked in one parameter, tokens are sorted by expert and multiplied in groups, like Transformers'
experts implementation `grouped_mm` does. If the experts are modules, each of them runs on every token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from transformers.models.nllb_moe.modeling_nllb_moe import NllbMoeTop2Router
    from transformers.models.switch_transformers.modeling_switch_transformers import SwitchTransformersTop1Router


def experts_patch(target: str, make: Callable[[Any], Callable[..., torch.Tensor]]) -> Patch:
    """Return the patch of an experts module.

    Args:
        target: `module:Class` of the experts.
        make: returns a forward without the loop.
    """
    return Patch(
        f"{target}.forward",
        make,
        "the loop over the experts that were hit is data-dependent",
        EAGER,
        "Transformers supports experts implementations for this model, as for its other mixtures of experts",
        without_values=True,
    )


def router_patch(target: str, make: Callable[[object], Callable[..., tuple[torch.Tensor, ...]]]) -> Patch:
    """Return the patch of a router that casts its parameters in place while it runs.

    Args:
        target: `module:Class` of the router.
        make: returns a forward that casts copies.
    """
    return Patch(
        f"{target}.forward",
        make,
        "_cast_classifier changes the dtype of the router's parameters in place, which fails for fake parameters",
        EAGER,
        "Transformers casts a copy of the weights",
        without_values=True,
    )


def by_expert(
    tokens: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
    experts: int,
    compute: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Return the weighted sum of the outputs of each token's experts.

    Args:
        tokens: hidden states, [tokens, hidden_size].
        top_k_index: expert indices, [tokens, top_k].
        top_k_weights: routing weights, [tokens, top_k].
        experts: number of experts.
        compute: computes [rows, hidden_size] from rows sorted by expert and the end of each expert's rows, [experts].

    Returns:
        Hidden states, [tokens, hidden_size].
    """
    import torch

    count, choices = top_k_index.shape
    indices, order = top_k_index.reshape(-1).sort()
    ends = (indices[None] <= torch.arange(experts, device=indices.device)[:, None]).sum(-1).to(torch.int32)
    outputs = compute(tokens[order // choices], ends) * top_k_weights.reshape(-1)[order][:, None]
    rows = order.argsort()
    return outputs[rows].reshape(count, choices, -1).sum(1).to(tokens.dtype)


def product(rows: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Multiply each expert's rows by its weight matrix.

    Args:
        rows: rows sorted by expert, [rows, in_features].
        weight: [experts, in_features, out_features].
        ends: the end of each expert's rows, [experts].

    Returns:
        [rows, out_features].
    """
    from transformers.integrations import moe

    result: torch.Tensor = moe._grouped_mm(rows, weight, ends)
    return result


def router_logits(
    router: NllbMoeTop2Router | SwitchTransformersTop1Router, hidden_states: torch.Tensor
) -> torch.Tensor:
    """Compute a router's logits in its dtype, without casting its parameters in place.

    Args:
        router: a module with `classifier` and `dtype`; its `input_dtype` is set, as in its original forward.
        hidden_states: [..., hidden_size].

    Returns:
        [..., experts].
    """
    from torch.nn import functional

    router.input_dtype, classifier = hidden_states.dtype, router.classifier
    bias = None if classifier.bias is None else classifier.bias.to(router.dtype)
    return functional.linear(hidden_states.to(router.dtype), classifier.weight.to(router.dtype), bias)
