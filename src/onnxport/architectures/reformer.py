"""Reformer: axial position embeddings of any batch size."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from transformers.models.reformer.modeling_reformer import AxialPositionEmbeddings


def _look_up_positions(_: object) -> Callable[..., torch.Tensor]:
    """Look up positions in the table that combines the weights of rows and columns."""

    def forward(self: AxialPositionEmbeddings, position_ids: torch.Tensor) -> torch.Tensor:
        import torch
        from torch.nn import functional

        table = torch.cat([w.expand(*self.axial_pos_shape, w.shape[-1]) for w in self.weights], dim=-1)
        return functional.embedding(position_ids, table.flatten(0, 1))

    return forward


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("reformer",),
        tiny=Tiny(fields={"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [16, 32]}),
        patches=(
            Patch(
                "transformers.models.reformer.modeling_reformer:AxialPositionEmbeddings.forward",
                _look_up_positions,
                "a loop over the sequences specializes the batch size",
                EAGER,
                "Transformers looks up the positions of the entire batch at once",
            ),
        ),
    ),
)
