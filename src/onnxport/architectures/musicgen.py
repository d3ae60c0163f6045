"""Describe MusicGen, where the codes of each codebook are a separate sequence of the batch, and its melodies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from onnxport.architectures._architecture import Architecture, Tiny, always
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.dummy_inputs import DummyInput

if TYPE_CHECKING:
    import torch

    from onnxport.description.dummy_inputs import InputContext
    from onnxport.description.preprocessor import Preprocessor


class MusicgenDecoderOnnxConfig(DerivedOnnxConfig):
    """Describe a decoder of audio codes."""

    def to_codes(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return audio codes, [batch * codebooks, sequence]."""
        return input_ids.repeat(int(self._config.num_codebooks or 1), 1)


def _chroma(context: InputContext) -> torch.Tensor:
    """Make the chroma of a melody; shorter ones are repeated up to `chroma_length`, which fixes their length."""
    import torch

    return torch.zeros(context.batch, context.config.chroma_length, context.config.num_chroma)


def _codes_mask(context: InputContext) -> torch.Tensor:
    """Make the mask of the codes of a sequence, the same for all its codebooks."""
    import torch

    return torch.ones(context.batch, context.inputs["decoder_input_ids"].shape[1], dtype=torch.int64)


class MusicgenMelodyOnnxConfig(DerivedOnnxConfig):
    """Describe the whole model, which takes a text and a melody."""

    dummy_inputs: ClassVar[Mapping[str, DummyInput]] = {
        "input_features": DummyInput({0: "batch"}, _chroma),
        "decoder_attention_mask": DummyInput({0: "batch", 1: "decoder_sequence"}, _codes_mask),
    }

    def _component(self, preprocessor: Preprocessor) -> Any:
        return getattr(preprocessor, "tokenizer", None) or preprocessor


ARCHITECTURES = (
    Architecture(("musicgen_decoder", "musicgen_melody_decoder"), model=always(MusicgenDecoderOnnxConfig)),
    Architecture(
        ("musicgen_melody",),
        model=always(MusicgenMelodyOnnxConfig),
        tiny=Tiny(fields={"decoder": {"...": 0, "max_position_embeddings": 2048}}),  # text, melody and codes
    ),
)
