"""Jev: questions about one prompt, each at the position of its mark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from onnxport.architectures._architecture import Architecture, always
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.dummy_inputs import DummyInput

if TYPE_CHECKING:
    import torch

    from onnxport.description.dummy_inputs import InputContext

_QUESTIONS = 3
"""Number of questions of dummy inputs, one of each type."""


def _marks(_: InputContext) -> torch.Tensor:
    """Make positions of marks, each after the first token."""
    import torch

    return torch.arange(1, _QUESTIONS + 1)[None]


def _num_options(_: InputContext) -> torch.Tensor:
    import torch

    return torch.full((1, _QUESTIONS), 2)


def _question_types(_: InputContext) -> torch.Tensor:
    import torch

    return torch.arange(_QUESTIONS)[None]


class JevOnnxConfig(DerivedOnnxConfig):
    """Describe the model and its head; it returns the scores of all questions' options as one axis."""

    dummy_inputs: ClassVar[Mapping[str, DummyInput]] = {
        "marks": DummyInput({1: "questions"}, _marks),
        "num_options": DummyInput({1: "questions"}, _num_options),
        "question_type_ids": DummyInput({1: "questions"}, _question_types),
    }


ARCHITECTURES = (Architecture(("jev",), model=always(JevOnnxConfig)),)
"""The forward of Transformers 5.23 reads the first prompt of a batch."""
