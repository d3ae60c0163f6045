"""FastSpeech2 Conformer: a length regulator that repeats the encoder's hidden states of the entire batch at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture
from onnxport.architectures._length_regulator import repeat_states
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
        durations.masked_fill_(durations.sum() == 0, 1)  # in place: the model returns them
        return repeat_states(hidden_states, durations, _MAX_FRAMES)

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
