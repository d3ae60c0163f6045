"""PEGASUS-X: dense computation of the encoder's block-local attention, for sequences of any length.

Transformers pads sequences to a multiple of the block size and splits them into blocks. Memory is quadratic in the
sequence length here, and linear there. Validation runs Transformers' unpatched code, so the two are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture
from onnxport.patching.patch import EAGER, Patch, Replacement
from onnxport.patching.scope import patching

if TYPE_CHECKING:
    import torch
    from transformers.models.pegasus_x.modeling_pegasus_x import (
        PegasusXEncoder,
        PegasusXEncoderLayer,
        PegasusXGlobalLocalAttention,
    )

_MODULE = "transformers.models.pegasus_x.modeling_pegasus_x"


@dataclass(frozen=True)
class _ShiftedMask:
    """The attention mask of a layer whose blocks are shifted.

    Attributes:
        mask: additive mask of the keys, [batch, sequence].
        offset: number of tokens by which the blocks are shifted.
    """

    mask: torch.Tensor
    offset: int


def _attend_within_blocks(
    self: PegasusXGlobalLocalAttention,
    token_hidden_states: torch.Tensor,
    global_hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | _ShiftedMask,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor, None]:
    """Compute `PegasusXGlobalLocalAttention.forward` densely.

    A token attends to the tokens of its block and to the global tokens, which attend to all tokens.

    Args:
        self: the attention module.
        token_hidden_states: [batch, sequence, hidden_size].
        global_hidden_states: [batch, global tokens, hidden_size].
        attention_mask: additive mask of the keys, [batch, sequence]; with an offset if the blocks are shifted.
        **_: not used.

    Returns:
        Hidden states of the shapes of `token_hidden_states` and `global_hidden_states`, and None as attention weights.
    """
    import torch

    shifted = attention_mask if isinstance(attention_mask, _ShiftedMask) else _ShiftedMask(attention_mask, 0)
    mask = shifted.mask
    count, length = global_hidden_states.shape[1], token_hidden_states.shape[1]
    hidden_states = torch.cat([global_hidden_states, token_hidden_states], dim=1)

    def heads(projected: torch.Tensor) -> torch.Tensor:
        return projected.view(*projected.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)

    query, key, value = (
        heads(self.q_proj(hidden_states) * self.scaling),
        heads(self.k_proj(hidden_states)),
        heads(self.v_proj(hidden_states)),
    )
    bias = torch.nn.functional.pad(mask, (count, 0))[:, None, None, :]
    blocks = (torch.arange(length, device=mask.device) + shifted.offset) // self.block_size
    other_block = torch.nn.functional.pad(blocks[:, None] != blocks[None, :], (count, 0, count, 0))
    scores = (query @ key.transpose(-1, -2) + bias).masked_fill(other_block, torch.finfo(mask.dtype).min)
    attended = torch.softmax(scores, dim=-1) @ value
    outputs = self.out_proj(attended.transpose(1, 2).flatten(2))
    return outputs[:, count:], outputs[:, :count], None


def _shift_blocks(
    self: PegasusXEncoderLayer, hidden_states: torch.Tensor, attention_mask: torch.Tensor, block_size: int
) -> tuple[torch.Tensor, _ShiftedMask]:
    """Shift the blocks by half a block size: return the offset with the mask instead of padding."""
    return hidden_states, _ShiftedMask(attention_mask, block_size // 2)


def _skip_unpadding(self: PegasusXEncoderLayer, padded_hidden_states: torch.Tensor, block_size: int) -> torch.Tensor:
    return padded_hidden_states


def _without_padding(original: Callable[..., Any]) -> Callable[..., Any]:
    """Run the encoder with a block size of 1, so that it doesn't pad; its layers keep their block size."""

    def forward(self: PegasusXEncoder, *arguments: Any, **named: Any) -> Any:
        with patching(Replacement(self.config, "block_size", 1)):
            return original(self, *arguments, **named)

    return forward


def _patch(target: str, make: Callable[[Any], Callable[..., Any]]) -> Patch:
    return Patch(
        f"{_MODULE}:{target}",
        make,
        "the padding to a multiple of the block size is specialized to the example's length",
        EAGER,
        "Transformers has a dense attention implementation for exports",
    )


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("pegasus_x",),
        patches=(
            _patch("PegasusXEncoder.forward", _without_padding),
            _patch("PegasusXGlobalLocalAttention.forward", lambda _: _attend_within_blocks),
            _patch("PegasusXEncoderLayer.pad_local_tokens", lambda _: _shift_blocks),
            _patch("PegasusXEncoderLayer.unpad_local_tokens", lambda _: _skip_unpadding),
        ),
    ),
)
