"""Describe MusicGen, where the codes of each codebook are a separate sequence of the batch, and its melodies.

With the cache, MusicGen is three graphs: the encoder of text, one step of the decoder, and the decoder of codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from onnxport.architectures._architecture import Architecture, Tiny, always
from onnxport.architectures.encodec import CodesDecoderOnnxConfig
from onnxport.configs._past import OnnxConfigWithPast
from onnxport.description.component_types import encoder_alone
from onnxport.description.components import AUDIO_DECODER, Component
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.dummy_inputs import DummyInput
from onnxport.description.encoder_decoder import Seq2SeqDecoderOnnxConfig

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from onnxport.configs import OnnxConfig
    from onnxport.description.dummy_inputs import InputContext
    from onnxport.description.preprocessor import Preprocessor
    from onnxport.description.tasks import Task

_MUSICGEN = "MusicgenForConditionalGeneration"


class MusicgenDecoderOnnxConfig(DerivedOnnxConfig):
    """Describe a decoder of audio codes."""

    def to_codes(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return audio codes, [batch * codebooks, sequence]."""
        return input_ids.repeat(int(self._config.num_codebooks or 1), 1)


class MusicgenStepOnnxConfig(Seq2SeqDecoderOnnxConfig):
    """Describe the decoder of the whole model: codes are [batch * codebooks, sequence], and so are its logits."""

    def __init__(self, model: PreTrainedModel, encoder: OnnxConfig, preprocessor: Any) -> None:
        OnnxConfigWithPast.__init__(self, model.config.decoder, "default", self.patches_of(model), use_past=True)
        self._inspect_forward(model, encoder, preprocessor)

    @property
    def multiples(self) -> frozenset[str]:
        """The codes: a sequence for each codebook."""
        return frozenset({"input_ids"})

    def _decoder_input_ids(self, batch: int, length: int) -> torch.Tensor:
        import torch

        return torch.ones(batch * self._config.num_codebooks, length, dtype=torch.int64)


def _components(
    model: PreTrainedModel, task: Task, preprocessor: Preprocessor, _: bool
) -> tuple[Component, ...] | None:
    if not task.with_past or type(model).__name__ != _MUSICGEN:
        return None
    encoder = replace(encoder_alone(model, preprocessor), name="text_encoder")
    decoder = MusicgenStepOnnxConfig(model, encoder.config, preprocessor)
    codec, settings = model.audio_encoder, model.config.decoder
    codes = CodesDecoderOnnxConfig(codec.config, settings.num_codebooks // settings.audio_channels)
    return (
        encoder,
        Component("decoder_model_merged", model, decoder, preprocessor),
        Component(AUDIO_DECODER, codec, codes, preprocessor),
    )


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
    Architecture(("musicgen",), components=_components, audio_classes=(_MUSICGEN,)),
    Architecture(("musicgen_decoder", "musicgen_melody_decoder"), model=always(MusicgenDecoderOnnxConfig)),
    Architecture(
        ("musicgen_melody",),
        model=always(MusicgenMelodyOnnxConfig),
        tiny=Tiny(fields={"decoder": {"...": 0, "max_position_embeddings": 2048}}),  # text, melody and codes
    ),
)
