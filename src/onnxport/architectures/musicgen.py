"""Describe the decoders of MusicGen, where the codes of each codebook are a separate sequence of the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture, always
from onnxport.description.derived import DerivedOnnxConfig

if TYPE_CHECKING:
    import torch


class MusicgenDecoderOnnxConfig(DerivedOnnxConfig):
    """Describe a decoder of audio codes."""

    def to_codes(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return audio codes, [batch * codebooks, sequence]."""
        return input_ids.repeat(int(self._config.num_codebooks or 1), 1)


ARCHITECTURES = (
    Architecture(("musicgen_decoder", "musicgen_melody_decoder"), model=always(MusicgenDecoderOnnxConfig)),
)
