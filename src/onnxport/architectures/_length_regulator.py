"""Repeat the hidden states of an entire batch for predicted durations, for the patches of vocoders."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def repeat_states(hidden_states: torch.Tensor, durations: torch.Tensor, max_frames: int | None = None) -> torch.Tensor:
    """Repeat each hidden state; sequences with fewer frames than the longest end with zeros.

    Args:
        hidden_states: [batch, tokens, hidden_size].
        durations: the number of frames of each token, [batch, tokens].
        max_frames: largest number of frames that the model supports; None if there is none.

    Returns:
        Hidden states of shape [batch, frames, hidden_size].
    """
    import torch

    ends = durations.cumsum(1)
    frames = ends[:, -1].max().item()
    torch._check(frames > 1)  # type: ignore[no-untyped-call]  # needed to trace; the graph also works with 1 frame
    if max_frames is not None:
        torch._check(frames <= max_frames)  # type: ignore[no-untyped-call]
    frame = torch.arange(frames, device=hidden_states.device)
    token = (frame[None, :, None] >= ends[:, None]).sum(-1).clamp(max=hidden_states.shape[1] - 1)
    repeated = hidden_states.gather(1, token[..., None].expand(-1, -1, hidden_states.shape[2]))
    return repeated * (frame[None] < ends[:, -1:])[..., None]
