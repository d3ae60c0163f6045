"""DBRX: experts without the loop over those that were hit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.architectures._experts import by_expert, experts_patch, product

if TYPE_CHECKING:
    import torch
    from transformers.models.dbrx.modeling_dbrx import DbrxExperts


def _experts(_: object) -> Callable[..., torch.Tensor]:
    def forward(
        self: DbrxExperts, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        def compute(rows: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
            w1, v1, w2 = (
                weight.view(self.num_experts, self.ffn_hidden_size, self.hidden_size)
                for weight in (self.mlp.w1, self.mlp.v1, self.mlp.w2)
            )
            gate = self.mlp.activation_fn(product(rows, w1.transpose(1, 2), ends))
            return product(gate * product(rows, v1.transpose(1, 2), ends), w2, ends)

        tokens = hidden_states.reshape(-1, self.hidden_size)
        return by_expert(tokens, top_k_index, top_k_weights, self.num_experts, compute).view(hidden_states.shape)

    return forward


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("dbrx",),
        tiny=Tiny(fields={"attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0}}),
        patches=(experts_patch("transformers.models.dbrx.modeling_dbrx:DbrxExperts", _experts),),
    ),
)
