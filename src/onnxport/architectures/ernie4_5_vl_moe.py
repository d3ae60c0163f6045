"""Ernie 4.5 VL MoE: the experts of images and of text; fields of its tiny configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from transformers.models.ernie4_5_vl_moe.modeling_ernie4_5_vl_moe import Ernie4_5_VLMoeMoeBlock

    Experts = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def _select_by_token(original: Experts) -> Experts:
    """Run both kinds of experts on every token, and select by its type."""

    def forward(
        self: Ernie4_5_VLMoeMoeBlock, hidden_states: torch.Tensor, moe_mm_token_type_ids: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        if moe_mm_token_type_ids is None:
            return original(self, hidden_states)
        is_image = moe_mm_token_type_ids.bool().reshape(-1, 1)
        image, image_logits = self.vision_moe(hidden_states)
        text, text_logits = self.text_moe(hidden_states)
        size, shape = hidden_states.shape[-1], (-1, self.num_experts)
        selected = torch.where(is_image, image.reshape(-1, size), text.reshape(-1, size)).reshape(hidden_states.shape)
        logits = torch.where(is_image, image_logits.reshape(shape), text_logits.reshape(shape))
        return selected if self.shared_experts is None else selected + self.shared_experts(hidden_states), logits

    return forward


ARCHITECTURES = (
    Architecture(
        ("ernie4_5_vl_moe_text",),
        patches=(
            Patch(
                "transformers.models.ernie4_5_vl_moe.modeling_ernie4_5_vl_moe:Ernie4_5_VLMoeMoeBlock.forward",
                _select_by_token,
                "it branches on whether any token is an image's, and gathers those tokens",
                EAGER,
                "Transformers selects the experts' outputs by token",
            ),
        ),
        tiny=Tiny(fields={"moe_intermediate_size": [32, 32]}),
    ),
)
