"""Describe MusicGen, where the codes of each codebook are a separate sequence of the batch, and its melodies.

With the cache, MusicGen is three graphs: the encoder of text, one step of the decoder, and the decoder of codes. The
decoder of MusicGen Melody has no cross-attention: the melody and the text are embeddings before the first code, and
have a graph each that projects them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from onnxport.architectures._architecture import Architecture, Tiny, always
from onnxport.architectures.encodec import CodesDecoderOnnxConfig
from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.configs._parameters import compute_effective_axis_dimension
from onnxport.configs._past import OnnxConfigWithPast
from onnxport.description.component_types import encoder_alone
from onnxport.description.components import AUDIO_DECODER, PROJECTIONS, Component
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.dummy_inputs import DummyInput
from onnxport.description.encoder_decoder import Seq2SeqDecoderOnnxConfig

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from onnxport.description.dummy_inputs import InputContext
    from onnxport.description.preprocessor import Preprocessor
    from onnxport.description.tasks import Task

_MUSICGEN, _MELODY = "MusicgenForConditionalGeneration", "MusicgenMelodyForConditionalGeneration"
_LENGTH = 5
"""Number of dummy embeddings before the codes."""


def _conditions(context: InputContext) -> torch.Tensor:
    """Make the embeddings of a melody and a text."""
    import torch

    return torch.zeros(context.batch, _LENGTH, context.config.hidden_size)


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


class MelodyStepOnnxConfig(MusicgenDecoderOnnxConfig):
    """Describe the decoder of MusicGen Melody: what it is conditioned on precedes the codes of the first step."""

    dummy_inputs: ClassVar[Mapping[str, DummyInput]] = {
        "encoder_hidden_states": DummyInput({0: "batch", 1: "encoder_sequence"}, _conditions),
    }

    @property
    def inputs(self) -> Axes:
        """Codes, embeddings that precede them, and the cache; the mask is that of sequences without padding."""
        return {name: axes for name, axes in super().inputs.items() if name != "attention_mask"}

    @property
    def multiples(self) -> frozenset[str]:
        """The codes: a sequence for each codebook."""
        return frozenset({"input_ids"})

    def generate_dummy_inputs(self, *arguments: Any, **named: Any) -> Mapping[str, Any]:  # type: ignore[override]
        """Make codes, embeddings and a cache; see `DerivedOnnxConfig`."""
        inputs = super().generate_dummy_inputs(*arguments, **named)
        return {name: value for name, value in inputs.items() if name != "attention_mask"}


class ProjectionOnnxConfig(OnnxConfig):
    """Describe a projection to the hidden size of the decoder.

    Args:
        model: the model.
        module: name of its linear layer.
        input_name: name of the input, [batch, sequence, features].
    """

    def __init__(self, model: PreTrainedModel, module: str, input_name: str) -> None:
        super().__init__(model.config)
        self._module, self._input = module, input_name
        self._features = getattr(model, module).in_features

    @property
    def inputs(self) -> Axes:
        """What is projected, [batch, sequence, features]."""
        return {self._input: {0: "batch", 1: "sequence"}}

    @property
    def outputs(self) -> Axes:
        """Its projection, [batch, sequence, hidden_size]."""
        return {"projected": {0: "batch", 1: "sequence"}}

    def generate_dummy_inputs(self, preprocessor: Any, batch_size: int = -1, **named: Any) -> Mapping[str, Any]:  # type: ignore[override]
        """Make features; see `OnnxConfig`."""
        import torch

        batch = compute_effective_axis_dimension(batch_size, self.default_batch_size)
        return {self._input: torch.zeros(batch, _LENGTH, self._features)}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the layer."""
        return {"projected": getattr(model_of(forward), self._module)(arguments[self._input])}


def _melody_components(
    model: PreTrainedModel, task: Task, preprocessor: Preprocessor, _: bool
) -> tuple[Component, ...] | None:
    if not task.with_past or type(model).__name__ != _MELODY:
        return None
    tokenizer = getattr(preprocessor, "tokenizer", None) or preprocessor
    codec, settings = model.audio_encoder, model.config.decoder
    decoder = MelodyStepOnnxConfig(model.decoder, tokenizer, use_past=True)
    codes = CodesDecoderOnnxConfig(codec.config, settings.num_codebooks // settings.audio_channels)
    projections = {name: (module, of) for name, (module, of) in PROJECTIONS.items() if hasattr(model, module)}
    return (
        replace(encoder_alone(model.text_encoder, tokenizer), name="text_encoder"),
        *(Component(name, model, ProjectionOnnxConfig(model, *one), tokenizer) for name, one in projections.items()),
        Component("decoder_model_merged", model.decoder, decoder, tokenizer),
        Component(AUDIO_DECODER, codec, codes, tokenizer),
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
        components=_melody_components,
        audio_classes=(_MELODY,),
        model=always(MusicgenMelodyOnnxConfig),
        tiny=Tiny(fields={"decoder": {"...": 0, "max_position_embeddings": 2048}}),  # text, melody and codes
    ),
)
