"""CLVP: rotary embeddings that aren't cached for a single sequence length."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from transformers.models.clvp.modeling_clvp import ClvpRotaryPositionalEmbedding


def _uncached(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Recompute the rotary embeddings in every call, and cache none in the module."""

    def forward(self: ClvpRotaryPositionalEmbedding, hidden_states: torch.Tensor) -> torch.Tensor:
        try:
            self.cached_sequence_length = self.cached_rotary_positional_embedding = None
            return original(self, hidden_states)
        finally:
            self.cached_sequence_length = self.cached_rotary_positional_embedding = None

    return forward


_ENCODER: dict[str, object] = {"num_attention_heads": 1}
"""Rotary embeddings have at least 32 dimensions, all of one head."""
ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("clvp",),
        tiny=Tiny(
            fields={
                "decoder_config": {"...": 0, "decoder_fixing_codes": [83, 45, 45, 100], "feature_size": 80},
                "text_config": {"...": 0, **_ENCODER},
                "speech_config": {"...": 0, **_ENCODER},
            }
        ),
        patches=(
            Patch(
                "transformers.models.clvp.modeling_clvp:ClvpRotaryPositionalEmbedding.forward",
                _uncached,
                "it caches the embeddings of the last length, and comparing it specializes the sequence length",
                EAGER,
                "Transformers computes the embeddings in every call",
            ),
        ),
    ),
    Architecture(("clvp_encoder",), tiny=Tiny(fields=_ENCODER)),
)
