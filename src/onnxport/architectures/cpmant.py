"""CPM-Ant: an attention mask computed from a tensor of positions.

Transformers computes it from a list of positions, which specializes the sequence length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from transformers.models.cpmant.modeling_cpmant import CpmAntModel


def _mask_from_positions(_: object) -> Callable[..., torch.Tensor]:
    """Return a replacement for `_prepare_attention_mask`, [batch, sequence, sequence], with positions as a tensor."""

    def mask(
        self: CpmAntModel, input_ids: torch.Tensor, span: torch.Tensor, context: torch.Tensor, length: torch.Tensor
    ) -> torch.Tensor:
        import torch

        position = torch.arange(input_ids.shape[1], device=input_ids.device)
        before = position <= position[:, None]
        context = context.bool()
        allowed = context[:, None, :] | (~context[:, :, None] & before)
        allowed = allowed & (span[:, None, :] == span[:, :, None])
        left = input_ids.shape[1] - 1 - position < length[:, None]  # sequences are padded on the left
        valid = (position < self.prompt_length) | left
        return valid[:, :, None] & valid[:, None, :] & allowed

    return mask


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("cpmant",),
        patches=(
            Patch(
                "transformers.models.cpmant.modeling_cpmant:CpmAntModel._prepare_attention_mask",
                _mask_from_positions,
                "a list of positions specializes the sequence length",
                EAGER,
                "Transformers creates the positions with arange",
            ),
        ),
    ),
)
