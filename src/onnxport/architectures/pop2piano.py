"""Describe Pop2Piano, whose encoder takes a spectrogram in place of the embeddings of tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from onnxport._transformers_api import call_forward
from onnxport.architectures._architecture import Architecture, always
from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.configs._parameters import compute_effective_axis_dimension
from onnxport.description.component_types import generates_from_encoder
from onnxport.description.components import Component
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.dummy_inputs import DummyInput, InputContext
from onnxport.description.encoder_decoder import Seq2SeqDecoderOnnxConfig

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from onnxport.description.preprocessor import Preprocessor
    from onnxport.description.tasks import Task


class Pop2PianoEncoderOnnxConfig(OnnxConfig):
    """Describe the encoder; the frames of a spectrogram are as large as its hidden states."""

    @property
    def inputs(self) -> Axes:
        """Frames, [batch, frames, d_model], and a mask of those that aren't padding."""
        frames = {0: "batch", 1: "encoder_sequence"}
        return {"input_features": frames, "attention_mask": frames}

    @property
    def outputs(self) -> Axes:
        """Hidden states, [batch, frames, d_model]."""
        return {"last_hidden_state": {0: "batch", 1: "encoder_sequence"}}

    def generate_dummy_inputs(  # type: ignore[override]
        self, preprocessor: Preprocessor, batch_size: int = -1, seq_length: int = -1, **named: Any
    ) -> Mapping[str, Any]:
        """Make a spectrogram without padding; its feature extractor requires packages for music; see `OnnxConfig`."""
        import torch

        batch = compute_effective_axis_dimension(batch_size, self.default_batch_size)
        frames = compute_effective_axis_dimension(seq_length, self.default_sequence_length)
        mask = torch.ones(batch, frames, dtype=torch.int64)
        return {"input_features": torch.zeros(batch, frames, self._config.d_model), "attention_mask": mask}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the encoder of the model."""
        return call_forward(model_of(forward).get_encoder(), _with_embeddings(arguments))


class Pop2PianoDecoderOnnxConfig(Seq2SeqDecoderOnnxConfig):
    """Describe the decoder."""

    def _encoder_of(self, model: PreTrainedModel) -> Callable[..., Any]:
        def encode(**arguments: Any) -> Any:
            return model.get_encoder()(**_with_embeddings(arguments))

        return encode


def _with_embeddings(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"inputs_embeds" if name == "input_features" else name: value for name, value in arguments.items()}


def _components(
    model: PreTrainedModel, task: Task, preprocessor: Preprocessor, _: bool
) -> tuple[Component, ...] | None:
    if not generates_from_encoder(model, task):
        return None
    encoder = Pop2PianoEncoderOnnxConfig(model.config)
    decoder = Pop2PianoDecoderOnnxConfig(model, encoder, preprocessor)
    return (
        Component("encoder_model", model, encoder, preprocessor),
        Component("decoder_model_merged", model, decoder, preprocessor),
    )


def _frames(context: InputContext) -> torch.Tensor:
    """Return a spectrogram, [batch, frames, d_model]."""
    import torch

    return torch.zeros(context.batch, _FRAMES, context.config.d_model)


_FRAMES = 10
_FEATURES = "input_features"


class Pop2PianoOnnxConfig(DerivedOnnxConfig):
    """Describe the model as a single graph, without token ids for its encoder."""

    dummy_inputs: ClassVar[Mapping[str, DummyInput]] = {
        _FEATURES: DummyInput({0: "batch", 1: "encoder_sequence"}, _frames)
    }

    def fit_inputs(self, inputs: dict[str, Any]) -> None:
        """Replace token ids, and make a mask of the frames."""
        inputs.pop("input_ids", None)
        inputs["attention_mask"] = inputs[_FEATURES].new_ones(inputs[_FEATURES].shape[:2]).long()

    def _axes_of(self, inputs: Mapping[str, Any]) -> dict[str, Mapping[int, str]]:
        return {**super()._axes_of(inputs), "attention_mask": {0: "batch", 1: "encoder_sequence"}}


ARCHITECTURES = (Architecture(("pop2piano",), components=_components, model=always(Pop2PianoOnnxConfig)),)
