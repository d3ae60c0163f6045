"""Higgs Audio v2: layers with separate norms and a separate MLP for audio tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture
from onnxport.patching.patch import Patch

if TYPE_CHECKING:
    import torch
    from transformers.models.higgs_audio_v2.modeling_higgs_audio_v2 import HiggsAudioV2DecoderLayer


def _both_branches(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Compute the text and the audio branch for every token, and select by `audio_token_mask`."""

    def forward(
        self: HiggsAudioV2DecoderLayer,
        hidden_states: torch.Tensor,
        audio_token_mask: torch.Tensor | None = None,
        **named: Any,
    ) -> torch.Tensor:
        import torch

        if audio_token_mask is None:
            return original(self, hidden_states, **named)
        is_audio = audio_token_mask[..., None]
        normed = torch.where(is_audio, self.audio_input_layernorm(hidden_states), self.input_layernorm(hidden_states))
        hidden_states = hidden_states + self.self_attn(hidden_states=normed, **named)[0]
        text_outputs = self.mlp(self.post_attention_layernorm(hidden_states))
        audio_outputs = self.audio_mlp(self.audio_post_attention_layernorm(hidden_states))
        return hidden_states + torch.where(is_audio, audio_outputs, text_outputs)

    return forward


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("higgs_audio_v2",),
        patches=(
            Patch(
                "transformers.models.higgs_audio_v2.modeling_higgs_audio_v2:HiggsAudioV2DecoderLayer.forward",
                _both_branches,
                "ONNX Runtime can't select the audio tokens of a sequence without any",
                "none known: ONNX Runtime 1.27 fails if a mask selects no rows",
                "ONNX Runtime supports a mask that selects no rows",
            ),
        ),
    ),
)
