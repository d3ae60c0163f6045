"""Mixtures of experts without a loop over the experts that were hit, for the patches of models that have such a loop.

Where experts are rows of one parameter, tokens are sorted by their expert and multiplied in groups, as the experts
implementation `grouped_mm` of Transformers does; where they are modules, each runs on every token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from transformers.models.nllb_moe.modeling_nllb_moe import NllbMoeTop2Router
    from transformers.models.switch_transformers.modeling_switch_transformers import SwitchTransformersTop1Router


def experts_patch(target: str, make: Callable[[object], Callable[..., torch.Tensor]]) -> Patch:
    """Return the patch of a module of experts.

    Args:
        target: `module:Class` of the experts.
        make: returns the forward without a loop.
    """
    return Patch(
        f"{target}.forward",
        make,
        "the loop over the experts that were hit depends on values",
        EAGER,
        "Transformers gives this model an experts implementation, as its other mixtures of experts have",
        without_values=True,
    )


def router_patch(target: str, make: Callable[[object], Callable[..., tuple[torch.Tensor, ...]]]) -> Patch:
    """Return the patch of a router that casts its own weights while it runs.

    Args:
        target: `module:Class` of the router.
        make: returns the forward that casts copies.
    """
    return Patch(
        f"{target}.forward",
        make,
        "_cast_classifier changes the dtype of the router's parameters, which those without values can't",
        EAGER,
        "Transformers casts the weights where it uses them",
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
        tokens: [tokens, size].
        top_k_index: indices of experts, [tokens, top k].
        top_k_weights: weight of each, like `top_k_index`.
        experts: number of experts.
        compute: returns [rows, size] for rows sorted by expert, and the end of each expert's rows, [experts].

    Returns:
        Like `tokens`.
    """
    import torch

    count, choices = top_k_index.shape
    indices, order = top_k_index.reshape(-1).sort()
    ends = (indices[None] <= torch.arange(experts, device=indices.device)[:, None]).sum(-1).to(torch.int32)
    outputs = compute(tokens[order // choices], ends) * top_k_weights.reshape(-1)[order][:, None]
    rows = order.argsort()
    return outputs[rows].reshape(count, choices, -1).sum(1).to(tokens.dtype)


def product(rows: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Multiply each expert's rows by its matrix.

    Args:
        rows: sorted by expert, [rows, in].
        weight: [experts, in, out].
        ends: the end of each expert's rows, [experts].

    Returns:
        [rows, out].
    """
    from transformers.integrations import moe

    result: torch.Tensor = moe._grouped_mm(rows, weight, ends)
    return result


def router_logits(
    router: NllbMoeTop2Router | SwitchTransformersTop1Router, hidden_states: torch.Tensor
) -> torch.Tensor:
    """Compute a router's logits in its dtype, without changing its weights.

    Args:
        router: with `classifier` and `dtype`; its `input_dtype` is set, as its own forward does.
        hidden_states: [..., size].

    Returns:
        [..., experts].
    """
    from torch.nn import functional

    router.input_dtype, classifier = hidden_states.dtype, router.classifier
    bias = None if classifier.bias is None else classifier.bias.to(router.dtype)
    return functional.linear(hidden_states.to(router.dtype), classifier.weight.to(router.dtype), bias)
