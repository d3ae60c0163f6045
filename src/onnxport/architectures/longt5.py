"""LongT5 with transient-global attention: blocks of any number of tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch


def _symbolic_aggregates(_: object) -> Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]:
    """Sum the hidden states of each global block, for a number of blocks that isn't converted to a constant."""

    def aggregates(hidden_states: torch.Tensor, block_ids: torch.Tensor, global_seq_len: int) -> torch.Tensor:
        import torch

        blocks = torch.arange(global_seq_len, device=block_ids.device)
        is_in_block = block_ids[..., None] == blocks
        return torch.einsum("...nd,...ng->...gd", hidden_states, is_in_block.to(hidden_states.dtype))

    return aggregates


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("longt5",),
        patches=(
            Patch(
                "transformers.models.longt5.modeling_longt5:_create_global_aggregates",
                _symbolic_aggregates,
                "torch.tensor() of the number of blocks makes it a constant, that of the example",
                EAGER,
                "Transformers compares block ids with a range",
            ),
        ),
    ),
)
