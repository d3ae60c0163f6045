"""Describe Voxtral Realtime's text decoder. One audio embedding is added to each token embedding.

There are as many audio embeddings as tokens. The caller of the graphs adds the outputs of `audio_encoder` to those of
`embed_tokens`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, always
from onnxport.configs._base import model_of
from onnxport.description.component_types import multimodal
from onnxport.description.components import Component
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.multimodal import EmbedsDecoderOnnxConfig

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from onnxport.description.encoder_outputs import Modality
    from onnxport.description.preprocessor import Preprocessor
    from onnxport.description.tasks import Task


class RealtimeEmbedsDecoderOnnxConfig(EmbedsDecoderOnnxConfig):
    """Describe the decoder, whose embeddings include the audio, with the configuration's default delay."""

    def parameters_of(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Name the decoder's parameters; audio features aren't among them."""
        return (*inspect.signature(type(model.model.language_model).forward).parameters, "logits_to_keep")

    def run(self, forward: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Run the decoder and its head, as the whole model's forward does behind its audio encoder."""
        model = model_of(forward)

        def decode(*, logits_to_keep: int = 0, **named: Any) -> dict[str, Any]:
            outputs = dict(model.model.language_model(**named, t_cond=self._delay_embedding(model)))
            hidden_states = outputs.pop("last_hidden_state")
            return {"logits": model.lm_head(hidden_states[:, -logits_to_keep:]), **outputs}

        return super().run(decode, arguments)

    def _delay_embedding(self, model: PreTrainedModel) -> torch.Tensor:
        """Return the embedding of the number of tokens by which the decoder lags behind the audio."""
        import torch

        weight = model.get_input_embeddings().weight
        delay = torch.full((1,), model.config.default_num_delay_tokens, device=weight.device, dtype=weight.dtype)
        return model.model.time_embedding(delay)[None]


class RealtimeTextOnnxConfig(DerivedOnnxConfig):
    """Describe the decoder alone, which takes the embedding of its delay as an input."""

    def parameters_of(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Name the decoder's parameters, `t_cond` among them, which its forward passes to its layers in `**kwargs`."""
        return (*super().parameters_of(model), "t_cond")

    def generate_dummy_inputs(self, *arguments: Any, **named: Any) -> Mapping[str, Any]:
        """Make inputs; see `DerivedOnnxConfig`."""
        import torch

        made = super().generate_dummy_inputs(*arguments, **named)
        return {**made, "t_cond": torch.zeros(1, self._config.hidden_size)}

    def _axes_of(self, inputs: Mapping[str, Any]) -> dict[str, Mapping[int, str]]:
        return {**super()._axes_of(inputs), "t_cond": {}}


def _components(
    model: PreTrainedModel, task: Task, preprocessor: Preprocessor, last_logits: bool
) -> tuple[Component, ...] | None:
    if not task.with_past or not model.can_generate():
        return None
    return multimodal(model, task, preprocessor, last_logits, decoder=RealtimeEmbedsDecoderOnnxConfig)


def _modality(modality: Modality, _: PreTrainedConfig) -> Modality:
    return replace(modality, merge="add")


ARCHITECTURES = (
    Architecture(("voxtral_realtime",), components=_components, modalities=_modality),
    Architecture(("voxtral_realtime_text",), model=always(RealtimeTextOnnxConfig)),
)
