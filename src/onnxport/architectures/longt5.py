"""LongT5 with transient-global attention: blocks of any number of tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture
from onnxport.architectures._clamping import isinf_patch
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch

_FILE = "transformers.models.longt5.modeling_longt5"


def _symbolic_aggregates(_: object) -> Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]:
    """Sum the hidden states of each global block, for a number of blocks that isn't converted to a constant."""

    def aggregates(hidden_states: torch.Tensor, block_ids: torch.Tensor, global_seq_len: int) -> torch.Tensor:
        import torch

        blocks = torch.arange(global_seq_len, device=block_ids.device)
        is_in_block = block_ids[..., None] == blocks
        return torch.einsum("...nd,...ng->...gd", hidden_states, is_in_block.to(hidden_states.dtype))

    return aggregates


def _with_empty_blocks(_: object) -> Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]:
    """Number the global blocks, and add empty ones, so that a short text has more than one block, too."""

    def block_ids(attention_mask: torch.Tensor, global_block_size: int) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        length = attention_mask.shape[1]
        positions = torch.arange(length, device=attention_mask.device)
        blocks = torch.where(attention_mask != 0, positions // global_block_size, -1)
        is_end = (positions % global_block_size == global_block_size - 1) & (blocks >= 0)
        blocks = torch.minimum(blocks, is_end.sum(-1, keepdim=True) - 1)  # the last tokens are of the block before
        numbers = torch.arange(length // global_block_size + _EMPTY_BLOCKS, device=attention_mask.device)
        segments = numbers[None] <= blocks.amax(-1, keepdim=True)
        return blocks.to(torch.int32), segments.to(torch.int32)

    return block_ids


def _masking_empty_blocks(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Let no token attend to the empty blocks."""

    def compute_side_bias(self: Any, mask: torch.Tensor, global_segment_ids: torch.Tensor) -> torch.Tensor:
        import torch

        bias = original(self, mask, global_segment_ids)
        masked = torch.full_like(bias[..., -_EMPTY_BLOCKS:], -torch.inf)
        return torch.cat([bias[..., :-_EMPTY_BLOCKS], masked], dim=-1)

    return compute_side_bias


_EMPTY_BLOCKS = 2
"""Number of empty blocks: torch.export specializes axes of sizes 0 and 1."""
_BRANCH = "code for less than two blocks of tokens limits a graph to the lengths on one side of it"
_UNTIL = "torch.export treats sizes 0 and 1 that depend on other sizes as any other size"

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("longt5",),
        patches=(
            Patch(
                f"{_FILE}:_create_global_aggregates",
                _symbolic_aggregates,
                "torch.tensor() of the number of blocks makes it a constant, that of the example",
                EAGER,
                "Transformers compares block ids with a range",
            ),
            Patch(f"{_FILE}:_make_global_fixed_block_ids", _with_empty_blocks, _BRANCH, EAGER, _UNTIL),
            isinf_patch(_FILE),
            Patch(
                f"{_FILE}:LongT5TransientGlobalAttention.compute_side_bias",
                _masking_empty_blocks,
                _BRANCH,
                EAGER,
                _UNTIL,
            ),
        ),
    ),
)
