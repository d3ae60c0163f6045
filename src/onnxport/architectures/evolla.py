"""Evolla: attention to a protein that doesn't depend on the values of its mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from transformers.models.evolla.modeling_evolla import EvollaSequenceAlignerCrossAttention


def _always(_: object) -> Callable[..., torch.Tensor]:
    """Attend to the protein's embeddings, of which none is masked: the model makes a mask of ones."""

    def forward(
        self: EvollaSequenceAlignerCrossAttention,
        query_states: torch.Tensor,
        protein_kv_states: torch.Tensor | None,
        structure_kv_states: None,
        msa_kv_states: None,
        query_attn_mask: torch.Tensor,
        **_: object,
    ) -> torch.Tensor:
        import torch

        if protein_kv_states is None:
            return query_states
        mask = protein_kv_states.new_ones(protein_kv_states.shape[:2])
        attended = self.cross_attention(
            query_states=query_states,
            protein_key_value_states=protein_kv_states,
            structure_key_value_states=None,
            msa_key_value_states=None,
            query_attn_mask=query_attn_mask,
            protein_kv_attn_mask=mask,
            structure_kv_attn_mask=None,
            msa_kv_attn_mask=None,
        )
        hidden_states = query_states + torch.tanh(self.gate_attention) * attended
        return hidden_states + self.ff(hidden_states) * torch.tanh(self.gate_ffw)

    return forward


ARCHITECTURES = (
    Architecture(
        ("evolla",),
        patches=(
            Patch(
                "transformers.models.evolla.modeling_evolla:EvollaSequenceAlignerCrossAttention.forward",
                _always,
                "attention to the protein is skipped if its mask, which the model makes of ones, is all zeros",
                EAGER,
                "Transformers skips it only without a protein",
                without_values=True,
            ),
        ),
    ),
)
