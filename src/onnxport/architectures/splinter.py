"""Splinter: questions are found in the text, or pretraining names their positions."""

from __future__ import annotations

from typing import ClassVar

from onnxport.architectures._architecture import Architecture, of_class
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.dummy_inputs import DummyInput


class SplinterPreTrainingOnnxConfig(DerivedOnnxConfig):
    """Describe the class for pretraining, whose questions a graph can't find: each sequence has another number."""

    dummy_inputs: ClassVar = {
        "question_positions": DummyInput(
            {0: "batch", 1: "num_questions"}, lambda context: context.inputs["input_ids"][:, :2] * 0 + 1
        )
    }


ARCHITECTURES = (
    Architecture(
        ("splinter",),
        model=of_class("SplinterForPreTraining", SplinterPreTrainingOnnxConfig),
        left_out={"question_positions": "that of the first question token"},
    ),
)
