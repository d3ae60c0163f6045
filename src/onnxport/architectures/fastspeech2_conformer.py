"""FastSpeech2 Conformer: a length regulator that repeats the encoder's hidden states of the entire batch at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch

_MAX_FRAMES = 5000
"""Maximum length of the model's position embeddings."""


def _regulate_length(_: object) -> Callable[..., torch.Tensor]:
    """Repeat each hidden state [batch, tokens, hidden_size] for the number of frames in `durations` [batch, tokens]."""

    def length_regulator(
        hidden_states: torch.Tensor, durations: torch.Tensor, speaking_speed: float = 1.0
    ) -> torch.Tensor:
        import torch

        if speaking_speed != 1.0:
            durations = torch.round(durations.float() * speaking_speed).long()
        durations = torch.where(durations.sum() == 0, 1, durations)
        ends = durations.cumsum(1)
        frames = ends[:, -1].max().item()
        torch._check(frames > 1)  # type: ignore[no-untyped-call]  # needed to trace; the graph also works with 1 frame
        torch._check(frames <= _MAX_FRAMES)  # type: ignore[no-untyped-call]
        frame = torch.arange(frames, device=hidden_states.device)
        token = (frame[None, :, None] >= ends[:, None]).sum(-1).clamp(max=hidden_states.shape[1] - 1)
        repeated = hidden_states.gather(1, token[..., None].expand(-1, -1, hidden_states.shape[2]))
        return repeated * (frame[None] < ends[:, -1:])[..., None]

    return length_regulator


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("fastspeech2_conformer", "fastspeech2_conformer_with_hifigan"),
        patches=(
            Patch(
                "transformers.models.fastspeech2_conformer.modeling_fastspeech2_conformer:length_regulator",
                _regulate_length,
                "a loop over the batch specializes its size, and the number of frames is data-dependent",
                EAGER,
                "Transformers repeats the hidden states of the entire batch at once",
            ),
        ),
    ),
)
