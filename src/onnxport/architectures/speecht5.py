"""Describe SpeechT5 for speech generation, and its base model, whose inputs are the hidden states of its prenets.

Text to speech is three graphs with the cache: the encoder, one step of the decoder, and the postnet. The decoder prenet
applies dropout even in evaluation mode. A graph doesn't, and neither does the original model that it is compared with:
all values are kept, which is the expected value of the dropout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from onnxport._transformers_api import PAST, call_forward
from onnxport.architectures._architecture import Architecture, when_generating
from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.configs._parameters import compute_effective_axis_dimension
from onnxport.description.components import POSTNET, Component
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.encoder_decoder import Seq2SeqDecoderOnnxConfig
from onnxport.patching.patch import Replacement
from onnxport.patching.scope import patching

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from onnxport.description.preprocessor import Preprocessor
    from onnxport.description.tasks import Task

_TEXT_TO_SPEECH = "SpeechT5ForTextToSpeech"
_STATES = {"input_values": 7, "decoder_input_values": 3}
"""Inputs of the base model, and the sequence lengths of dummy inputs."""
_FRAMES = 6
"""Number of frames of dummy spectrograms."""
_BATCH_SEQUENCE = {0: "batch", 1: "encoder_sequence"}


class SpeechT5OnnxConfig(DerivedOnnxConfig):
    """Describe SpeechT5 as a single graph."""

    def __init__(self, model: PreTrainedModel, *arguments: Any) -> None:
        self._is_base_model = type(model).__name__ == "SpeechT5Model"
        super().__init__(model, *arguments)

    def generate_dummy_inputs(self, *arguments: Any, **named: Any) -> Mapping[str, Any]:  # type: ignore[override]
        """Create dummy inputs; see `DerivedOnnxConfig`."""
        import torch

        inputs = dict(super().generate_dummy_inputs(*arguments, **named))
        if not self._is_base_model:
            return inputs
        batch = next(len(value) for value in inputs.values())
        hidden_states = {name: torch.zeros(batch, length, self._config.hidden_size) for name, length in _STATES.items()}
        return {**hidden_states, "attention_mask": torch.ones(batch, _STATES["input_values"], dtype=torch.int64)}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the model; see `OnnxConfig`."""
        with _without_prenet_dropout(model_of(forward)):
            return super().run(forward, arguments)


class TextEncoderOnnxConfig(OnnxConfig):
    """Describe the encoder of text, which returns the mask for the decoder's cross-attention, too."""

    @property
    def inputs(self) -> Axes:
        """Token ids and their mask, [batch, sequence]."""
        return {"input_ids": _BATCH_SEQUENCE, "attention_mask": _BATCH_SEQUENCE}

    @property
    def outputs(self) -> Axes:
        """Hidden states, [batch, sequence, hidden_size], and the mask."""
        return {"last_hidden_state": _BATCH_SEQUENCE, "encoder_attention_mask": _BATCH_SEQUENCE}

    def generate_dummy_inputs(self, *arguments: Any, **named: Any) -> Mapping[str, Any]:  # type: ignore[override]
        """Tokenize dummy texts; see `OnnxConfig`."""
        import torch

        input_ids = super().generate_dummy_inputs(*arguments, **{**named, "framework": "pt"})["input_ids"]
        return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the encoder of the model."""
        mask = arguments["attention_mask"]
        inputs = {"input_values": arguments["input_ids"], "attention_mask": mask}
        encoded = call_forward(model_of(forward).speecht5.encoder, inputs)
        return {"last_hidden_state": encoded["last_hidden_state"], "encoder_attention_mask": mask.clone()}


class SpeechDecoderOnnxConfig(Seq2SeqDecoderOnnxConfig):
    """Describe one step of the decoder, from the frames so far to the next ones.

    The decoder's layers take the last frame only. The prenet takes all of them in the original, as the position of the
    last one is their number; in the graph, it takes the last frame and the position.
    """

    @property
    def inputs(self) -> Axes:
        """Frames, [batch, frames, num_mel_bins], the speaker's embedding, the encoder's outputs, and the cache."""
        inputs = dict(super().inputs)
        del inputs["input_ids"]
        frames = {"output_sequence": {0: "batch", 1: "decoder_sequence"}, "speaker_embeddings": {0: "batch"}}
        return {**frames, **inputs}

    @property
    def outputs(self) -> Axes:
        """The step's frames, the probabilities that they are the last ones, the next step's frames, and the cache.

        Of the step's frames, [batch * reduction_factor, num_mel_bins], the last of each sequence is appended to
        `output_sequence`.
        """
        outputs: dict[str, Mapping[int, str]] = {
            "spectrum": {},
            "prob": {0: "batch"},
            "output_sequence_out": {0: "batch", 1: "decoder_sequence + 1"},
        }
        self.fill_with_past_key_values_(outputs, "outputs")
        return {
            name: {axis: label.replace("+ decoder_sequence", "+ 1") for axis, label in axes.items()}
            for name, axes in outputs.items()
        }

    def generate_dummy_inputs(self, *arguments: Any, **named: Any) -> Mapping[str, Any]:  # type: ignore[override]
        """Make frames, a speaker's embedding, encoder hidden states, and a cache of both attentions."""
        inputs = dict(super().generate_dummy_inputs(*arguments, **named))
        return {**self._first_arguments(len(inputs.pop("input_ids"))), **inputs}

    def _decoder_arguments(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {name: arguments[name] for name in ("output_sequence", "speaker_embeddings")}

    def _first_arguments(self, batch: int) -> dict[str, Any]:
        import torch

        frames = torch.zeros(batch, _FRAMES, self._config.num_mel_bins)
        return {"output_sequence": frames, "speaker_embeddings": torch.zeros(batch, self._config.speaker_embedding_dim)}

    def _encoder_of(self, model: PreTrainedModel) -> Any:
        def encode(input_ids: torch.Tensor, **others: Any) -> Any:
            return model.speecht5.encoder(input_values=input_ids, **others)

        return encode

    def _call(self, forward: Any, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Run the prenet and the layers on the last frame, and predict the next ones."""
        import torch

        model = model_of(forward)
        frames, speaker = arguments["output_sequence"], arguments["speaker_embeddings"]
        decoder, postnet = model.speecht5.decoder, model.speech_decoder_postnet
        with _without_prenet_dropout(model):
            states = _last_frame if torch.compiler.is_exporting() else _all_frames
            inputs = {
                "hidden_states": states(decoder.prenet, frames, speaker),
                "encoder_hidden_states": arguments["encoder_outputs"].last_hidden_state,
                "encoder_attention_mask": arguments["attention_mask"],
                "use_cache": True,
            }
            decoded = call_forward(decoder.wrapped_decoder, {**inputs, PAST: arguments.get(PAST)})
        last = decoded["last_hidden_state"].squeeze(1)
        spectrum = postnet.feat_out(last).reshape(-1, self._config.num_mel_bins)
        following = spectrum.reshape(-1, self._config.reduction_factor, self._config.num_mel_bins)[:, -1:]
        return {
            "spectrum": spectrum,
            "prob": torch.sigmoid(postnet.prob_out(last)),
            "output_sequence_out": torch.cat([frames, following], dim=1),
            PAST: decoded[PAST],
        }


def _all_frames(prenet: Any, frames: torch.Tensor, speaker: torch.Tensor) -> torch.Tensor:
    """Run the prenet on all frames; return the hidden states of the last one, [batch, 1, hidden_size]."""
    return prenet(frames, speaker)[:, -1:]  # type: ignore[no-any-return]


def _last_frame(prenet: Any, frames: torch.Tensor, speaker: torch.Tensor) -> torch.Tensor:
    """Run the prenet on the last frame at its position: the cost of a step doesn't grow with their number."""
    encoding = prenet.encode_positions
    position = encoding.pe[:, : frames.shape[1]][:, -1:]

    def encode(hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states + encoding.alpha * position

    with patching(Replacement(encoding, "forward", encode)):
        return prenet(frames[:, -1:], speaker)  # type: ignore[no-any-return]


class PostnetOnnxConfig(OnnxConfig):
    """Describe the postnet, which refines a whole spectrogram."""

    @property
    def inputs(self) -> Axes:
        """The frames of all steps, [batch, frames, num_mel_bins]."""
        return {"spectrogram": {0: "batch", 1: "frames"}}

    @property
    def outputs(self) -> Axes:
        """The refined frames, [batch, frames, num_mel_bins]."""
        return {"postnet_spectrogram": {0: "batch", 1: "frames"}}

    def generate_dummy_inputs(  # type: ignore[override]
        self, preprocessor: Preprocessor, batch_size: int = -1, **named: Any
    ) -> Mapping[str, Any]:
        """Make a spectrogram; see `OnnxConfig`."""
        import torch

        batch = compute_effective_axis_dimension(batch_size, self.default_batch_size)
        return {"spectrogram": torch.zeros(batch, _FRAMES, self._config.num_mel_bins)}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the convolutions of the model's postnet."""
        return {"postnet_spectrogram": model_of(forward).speech_decoder_postnet.postnet(arguments["spectrogram"])}


@contextmanager
def _without_prenet_dropout(model: PreTrainedModel) -> Iterator[None]:
    """Disable the dropout of the decoder prenet within the block."""
    prenets = [module for module in model.modules() if hasattr(module, "_consistent_dropout")]
    with patching(*(Replacement(module, "_consistent_dropout", lambda states, _: states) for module in prenets)):
        yield


def _components(
    model: PreTrainedModel, task: Task, preprocessor: Preprocessor, _: bool
) -> tuple[Component, ...] | None:
    if not task.with_past or type(model).__name__ != _TEXT_TO_SPEECH:
        return None
    encoder = TextEncoderOnnxConfig(model.config)
    decoder = SpeechDecoderOnnxConfig(model, encoder, preprocessor)
    return (
        Component("encoder_model", model, encoder, preprocessor),
        Component("decoder_model_merged", model, decoder, preprocessor),
        Component(POSTNET, model, PostnetOnnxConfig(model.config), preprocessor),
    )


ARCHITECTURES = (
    Architecture(
        ("speecht5",),
        components=_components,
        model=when_generating(SpeechT5OnnxConfig),
        audio_classes=(_TEXT_TO_SPEECH,),
        left_out={"decoder_input_values": "output_sequence of the decoder's graph"},
    ),
)
