"""Describe UDOP, which requires bounding boxes, although its error doesn't mention them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture, always
from onnxport.description.component_types import encoder_decoder, generates_from_encoder
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.dummy_inputs import DummyInput, InputContext
from onnxport.description.encoder_decoder import EncoderOnnxConfig

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from onnxport.description.components import Component
    from onnxport.description.preprocessor import Preprocessor
    from onnxport.description.tasks import Task


def _boxes(context: InputContext) -> torch.Tensor:
    """Return bounding boxes, normalized to the page size, [batch, sequence, 4]."""
    import torch

    return torch.full((context.batch, context.length, 4), 0.5)


_DUMMY_INPUTS = {"bbox": DummyInput({0: "batch", 1: "sequence"}, _boxes)}


class UdopOnnxConfig(DerivedOnnxConfig):
    """Describe UDOP as a single graph."""

    dummy_inputs = _DUMMY_INPUTS


class UdopEncoderOnnxConfig(EncoderOnnxConfig):
    """Describe UDOP's encoder."""

    dummy_inputs = _DUMMY_INPUTS


def _components(
    model: PreTrainedModel, task: Task, preprocessor: Preprocessor, _: bool
) -> tuple[Component, ...] | None:
    if not generates_from_encoder(model, task):
        return None
    return encoder_decoder(model, preprocessor, encoder=UdopEncoderOnnxConfig)


ARCHITECTURES = (Architecture(("udop",), components=_components, model=always(UdopOnnxConfig)),)
