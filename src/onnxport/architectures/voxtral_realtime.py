"""Describe Voxtral Realtime's text decoder. One audio embedding is added to each token embedding.

The caller adds the outputs of `audio_encoder` and `embed_tokens`, which have the same shape.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, always
from onnxport.architectures._unmasked import UnmaskedOnnxConfig
from onnxport.configs._base import model_of
from onnxport.description.component_types import multimodal
from onnxport.description.components import Component
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.multimodal import EmbedsDecoderOnnxConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from onnxport.description.preprocessor import Preprocessor
    from onnxport.description.tasks import Task


class RealtimeEmbedsDecoderOnnxConfig(EmbedsDecoderOnnxConfig):
    """Describe a decoder whose `inputs_embeds` include the audio; it generates with the configuration's delay."""

    def parameters_of(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Return the decoder's parameters, without audio inputs."""
        return (*inspect.signature(type(model.model.language_model).forward).parameters, "logits_to_keep")

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the decoder and its head, as the full model does after its audio encoder."""
        model = model_of(forward)

        def decode(*, logits_to_keep: int = 0, **named: Any) -> dict[str, Any]:
            outputs = dict(model.model.language_model(**named, t_cond=self._delay_embedding(model)))
            hidden_states = outputs.pop("last_hidden_state")
            return {"logits": model.lm_head(hidden_states[:, -logits_to_keep:]), **outputs}

        return super().run(decode, arguments)

    def _delay_embedding(self, model: PreTrainedModel) -> Any:
        """Return the embedding of the default delay, which is a number of tokens."""
        import torch

        weight = model.get_input_embeddings().weight
        delay = torch.full((1,), model.config.default_num_delay_tokens, device=weight.device, dtype=weight.dtype)
        return model.model.time_embedding(delay)[None]


class RealtimeTextOnnxConfig(DerivedOnnxConfig):
    """Describe the decoder alone, which takes the embedding of its delay."""

    def parameters_of(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Return the decoder's parameters and `t_cond`, which forward passes to the layers through **kwargs."""
        return (*super().parameters_of(model), "t_cond")

    def generate_dummy_inputs(self, *arguments: Any, **named: Any) -> Mapping[str, Any]:
        """Create dummy inputs; see `DerivedOnnxConfig`."""
        import torch

        inputs = super().generate_dummy_inputs(*arguments, **named)
        return {**inputs, "t_cond": torch.zeros(1, self._config.hidden_size)}

    def _axes_of(self, inputs: Mapping[str, Any]) -> dict[str, Mapping[int, str]]:
        return {**super()._axes_of(inputs), "t_cond": {}}


def _components(
    model: PreTrainedModel, task: Task, preprocessor: Preprocessor, last_logits: bool
) -> tuple[Component, ...] | None:
    if not task.with_past or not model.can_generate():
        return None
    return multimodal(model, task, preprocessor, last_logits, decoder=RealtimeEmbedsDecoderOnnxConfig)


ARCHITECTURES = (
    Architecture(("voxtral_realtime",), components=_components, modalities=lambda each, _: replace(each, merge="add")),
    Architecture(("voxtral_realtime_text",), model=always(RealtimeTextOnnxConfig)),
    Architecture(
        ("voxtral_realtime_encoder",),
        model=always(UnmaskedOnnxConfig),
        left_out={"attention_mask": "of frames after the convolutions, for which no preprocessor makes a mask"},
    ),
)
