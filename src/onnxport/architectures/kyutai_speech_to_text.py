"""Describe Kyutai's speech-to-text model, whose input has a token id and audio codes at each position."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture, always
from onnxport.description.derived import DerivedOnnxConfig

if TYPE_CHECKING:
    import torch


class KyutaiSpeechToTextOnnxConfig(DerivedOnnxConfig):
    """Describe a decoder of token ids and audio codes."""

    def to_codes(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return token ids and audio codes, [batch, sequence, 1 + codebooks]."""
        return input_ids[..., None].repeat(1, 1, int(self._config.num_codebooks or 1) + 1)


ARCHITECTURES = (Architecture(("kyutai_speech_to_text",), model=always(KyutaiSpeechToTextOnnxConfig)),)
