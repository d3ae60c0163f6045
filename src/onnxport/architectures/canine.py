"""CANINE: local attention within chunks of sequences of any length."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from transformers.models.canine.modeling_canine import CanineAttention


def _attend_within_chunks(original: Callable[..., tuple[torch.Tensor, ...]]) -> Callable[..., tuple[torch.Tensor, ...]]:
    """Attend within chunks; the last chunk is padded with masked positions."""

    def forward(
        self: CanineAttention,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_attentions: bool | None = False,
    ) -> tuple[torch.Tensor, ...]:
        import torch
        from torch.nn import functional

        width = self.attend_from_chunk_width
        sizes = (self.attend_from_chunk_stride, self.attend_to_chunk_width, self.attend_to_chunk_stride)
        also_first = self.always_attend_to_first_position or self.first_position_attends_to_all
        if not self.local or also_first or output_attentions or set(sizes) != {width}:
            return original(self, hidden_states, attention_mask, output_attentions)
        batch, length, size = hidden_states.shape
        chunks = (length + width - 1) // width + 1  # never 1, for which the trace would specialize the batch size
        padding = chunks * width - length
        chunked = functional.pad(hidden_states, (0, 0, 0, padding)).reshape(batch * chunks, width, size)
        assert attention_mask is not None, "the encoder always passes it"
        # The mask is the same for every query; -inf masks the padding even if all other positions are masked.
        mask = functional.pad(attention_mask[:, 0].float(), (0, padding), value=-torch.inf).reshape(-1, 1, width)
        outputs = self.self(chunked, chunked, mask, False)[0].reshape(batch, chunks * width, size)[:, :length]
        return (self.output(outputs, hidden_states),)

    return forward


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("canine",),
        patches=(
            Patch(
                "transformers.models.canine.modeling_canine:CanineAttention.forward",
                _attend_within_chunks,
                "a loop over the chunks of a sequence specializes its length",
                EAGER,
                "Transformers computes the attention of all chunks as one batch",
            ),
        ),
    ),
)
