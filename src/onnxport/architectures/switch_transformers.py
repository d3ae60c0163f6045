"""Switch Transformers: experts without the loop over those that were hit, and a router that keeps its dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture
from onnxport.architectures._experts import experts_patch, router_logits, router_patch

if TYPE_CHECKING:
    import torch
    from transformers.models.switch_transformers.modeling_switch_transformers import (
        SwitchTransformersExperts,
        SwitchTransformersTop1Router,
    )

_MODULE = "transformers.models.switch_transformers.modeling_switch_transformers"


def _experts(_: object) -> Callable[..., torch.Tensor]:
    """Run every expert on every token; a token beyond its expert's capacity gets zeros."""

    def forward(
        self: SwitchTransformersExperts,
        hidden_states: torch.Tensor,
        selected_experts: torch.Tensor,
        routing_weights: torch.Tensor,
    ) -> torch.Tensor:
        total = hidden_states * 0
        for index in range(self.num_experts):
            weight = selected_experts[:, 0, index, None] * routing_weights
            total = total + (self[f"expert_{index}"](hidden_states) * weight).to(hidden_states.dtype)
        return total

    return forward


def _router(_: object) -> Callable[..., tuple[torch.Tensor, ...]]:
    """Route each token to its top-1 expert, up to the expert's capacity."""

    def forward(
        self: SwitchTransformersTop1Router, hidden_states: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        import torch

        logits = router_logits(self, hidden_states)
        probabilities = logits.softmax(-1).to(self.input_dtype)
        probability, index = probabilities.max(dim=-1, keepdim=True)
        one_hot = (index == torch.arange(self.num_experts, device=index.device)).to(torch.int64)
        return one_hot * (one_hot.cumsum(-2) <= self.expert_capacity), probability, logits

    return forward


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("switch_transformers",),
        patches=(
            experts_patch(f"{_MODULE}:SwitchTransformersExperts", _experts),
            router_patch(f"{_MODULE}:SwitchTransformersTop1Router", _router),
        ),
    ),
)
