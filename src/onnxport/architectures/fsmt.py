"""Describe FSMT, whose decoder layers take the encoder's hidden states with the sequence first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture
from onnxport.description.component_types import encoder_decoder, generates_from_encoder
from onnxport.description.encoder_decoder import DecoderOnnxConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from onnxport.description.components import Component
    from onnxport.description.preprocessor import Preprocessor
    from onnxport.description.tasks import Task


class FsmtDecoderOnnxConfig(DecoderOnnxConfig):
    """Describe FSMT's decoder."""

    is_time_first = True


def _components(
    model: PreTrainedModel, task: Task, preprocessor: Preprocessor, _: bool
) -> tuple[Component, ...] | None:
    if not generates_from_encoder(model, task):
        return None
    return encoder_decoder(model, preprocessor, decoder=FsmtDecoderOnnxConfig)


ARCHITECTURES = (Architecture(("fsmt",), components=_components),)
