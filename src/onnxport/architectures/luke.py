"""LUKE: the spans of entities, which only one of its classes takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from onnxport.architectures._architecture import Architecture, of_class
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.dummy_inputs import DummyInput, InputContext

if TYPE_CHECKING:
    import torch

_ENTITIES = 3


def _positions(context: InputContext) -> torch.Tensor:
    import torch

    return torch.arange(_ENTITIES).expand(context.batch, _ENTITIES).clone()


_SPANS = DummyInput({0: "batch", 1: "entity_length"}, _positions)


class LukeSpansOnnxConfig(DerivedOnnxConfig):
    """Describe the classifier of spans; the documentation of their positions has no shape."""

    dummy_inputs: ClassVar = {"entity_start_positions": _SPANS, "entity_end_positions": _SPANS}


ARCHITECTURES = (Architecture(("luke",), model=of_class("LukeForEntitySpanClassification", LukeSpansOnnxConfig)),)
