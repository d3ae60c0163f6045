"""NLLB-MoE: experts without the loop over those that were hit, and a router that keeps its parameters' dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture
from onnxport.architectures._clamping import isinf_patch
from onnxport.architectures._experts import experts_patch, router_logits, router_patch

if TYPE_CHECKING:
    import torch
    from transformers.models.nllb_moe.modeling_nllb_moe import NllbMoeExperts, NllbMoeTop2Router

_MODULE = "transformers.models.nllb_moe.modeling_nllb_moe"


def _experts(_: object) -> Callable[..., torch.Tensor]:
    """Run every expert on every token, and weight its output with the token's router probability."""

    def forward(
        self: NllbMoeExperts, hidden_states: torch.Tensor, router_mask: torch.Tensor, router_probs: torch.Tensor
    ) -> torch.Tensor:
        total = hidden_states * 0
        for index in range(self.num_experts):
            weight = (router_probs * (router_mask == index)).sum(dim=-1, keepdim=True)
            output = self[f"expert_{index}"](hidden_states)
            total = total + (output * (weight * (1 - self.moe_token_dropout))).to(hidden_states.dtype)
        return total

    return forward


def _router(_: object) -> Callable[..., tuple[torch.Tensor, ...]]:
    """Compute a router's logits in its dtype, without casting its parameters in place."""

    def forward(
        self: NllbMoeTop2Router, hidden_states: torch.Tensor, padding_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        logits = router_logits(self, hidden_states)
        return (*self.route_tokens(logits, self.input_dtype, padding_mask), logits)

    return forward


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("nllb-moe",),
        patches=(
            experts_patch(f"{_MODULE}:NllbMoeExperts", _experts),
            router_patch(f"{_MODULE}:NllbMoeTop2Router", _router),
            isinf_patch(_MODULE),
        ),
    ),
)
