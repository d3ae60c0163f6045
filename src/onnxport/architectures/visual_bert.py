"""VisualBERT: regions of an image, each at the positions of the words that it is aligned with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from transformers.models.visual_bert.modeling_visual_bert import VisualBertEmbeddings


def _aligned_without_branch(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Average the positions of the words of each region; a region without words has none."""

    def forward(
        self: VisualBertEmbeddings,
        input_ids: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        visual_embeds: torch.Tensor | None = None,
        visual_token_type_ids: torch.Tensor | None = None,
        image_text_alignment: torch.Tensor | None = None,
    ) -> torch.Tensor:
        import torch

        if visual_embeds is None or image_text_alignment is None:
            named: dict[str, Any] = {"inputs_embeds": inputs_embeds, "visual_embeds": visual_embeds}
            return original(
                self, input_ids, token_type_ids, position_ids, visual_token_type_ids=visual_token_type_ids, **named
            )
        words = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        types = torch.zeros_like(words[..., 0], dtype=torch.long) if token_type_ids is None else token_type_ids
        positions = self.position_ids[:, : words.shape[1]] if position_ids is None else position_ids
        words = words + self.token_type_embeddings(types) + self.position_embeddings(positions)
        regions = visual_embeds.shape[1]
        alignment = image_text_alignment[:, :regions]
        mask = (alignment != -1).to(words.dtype)
        aligned = (self.position_embeddings(alignment.clamp_min(0)) * mask[..., None]).sum(2)
        aligned = aligned / mask.sum(2).clamp_min(1)[..., None]
        first = torch.zeros_like(alignment[..., 0])
        types = first + 1 if visual_token_type_ids is None else visual_token_type_ids
        visual = self.visual_projection(visual_embeds) + self.visual_token_type_embeddings(types)
        visual = visual + aligned + self.visual_position_embeddings(first)
        embeddings: torch.Tensor = self.dropout(self.LayerNorm(torch.cat((words, visual), dim=1)))
        return embeddings

    return forward


ARCHITECTURES = (
    Architecture(
        ("visual_bert",),
        patches=(
            Patch(
                "transformers.models.visual_bert.modeling_visual_bert:VisualBertEmbeddings.forward",
                _aligned_without_branch,
                "whether a region is aligned with no word is a branch on values",
                EAGER,
                "Transformers divides by at least 1 without a branch",
            ),
        ),
    ),
)
