"""LongCat-Flash: experts without the loop over those that were hit, and identity experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture
from onnxport.architectures._experts import by_expert, experts_patch, product

if TYPE_CHECKING:
    import torch
    from transformers.models.longcat_flash.modeling_longcat_flash import LongcatFlashExperts


def _experts(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Compute the experts that have weights; the identity experts return their input.

    Since Transformers 5.25, all of them have weights, and the caller adds what the identity experts return.
    """

    def forward(
        self: LongcatFlashExperts, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        if not hasattr(self, "num_routed_experts"):
            return original(self, hidden_states, top_k_index, top_k_weights)
        routed = self.num_routed_experts
        has_weights = top_k_index < routed

        def compute(rows: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
            inner = product(rows, self.gate_up_proj.transpose(1, 2), ends)
            gate, up = inner.chunk(2, dim=-1)
            return product(self.act_fn(gate) * up, self.down_proj.transpose(1, 2), ends[:routed])

        identity = hidden_states * (top_k_weights * ~has_weights).sum(-1, keepdim=True)
        if self.gate_up_proj is None:
            return identity.to(hidden_states.dtype)
        index, weights = top_k_index.clamp(max=routed - 1), top_k_weights * has_weights
        outputs = by_expert(hidden_states, index, weights, self.total_experts, compute)
        return (outputs + identity).to(hidden_states.dtype)

    return forward


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("longcat_flash",),
        patches=(
            experts_patch("transformers.models.longcat_flash.modeling_longcat_flash:LongcatFlashExperts", _experts),
        ),
    ),
)
