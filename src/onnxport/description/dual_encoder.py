"""Describe each encoder of a model that compares texts with images or audio, as a graph of its own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.description.components import SPLIT_ENCODERS
from onnxport.description.derived import AXES
from onnxport.errors import UnsupportedError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def split_encoders_of(model: PreTrainedModel) -> tuple[str, ...]:
    """Name the components of a model.

    Raises:
        UnsupportedError: it doesn't compare texts with images or audio.
    """
    found = tuple(name for name, part in SPLIT_ENCODERS.items() if hasattr(model, part.method))
    if len(found) < 2 or "text_model" not in found:
        raise UnsupportedError(
            f"{type(model).__name__} has no method that encodes text beside one for images or audio: leave out "
            "--split-encoders"
        )
    return found


class SplitEncoderOnnxConfig(OnnxConfig):
    """Describe what encodes texts, images or audio alone.

    Args:
        model: the whole model.
        component: one of `SPLIT_ENCODERS`.
        preprocessor: what makes texts, pixels or features.

    Raises:
        UnsupportedError: the encoder wants more than those, or can't be described.
    """

    def __init__(self, model: PreTrainedModel, component: str, preprocessor: Any) -> None:
        super().__init__(model.config, task="default")
        part = SPLIT_ENCODERS[component]
        self._method = part.method
        self._parameters = tuple(inspect.signature(getattr(model, part.method)).parameters)
        projects = any("projection" in name for name, _ in model.named_children())
        self._output = part.output if projects else "pooler_output"  # what Transformers' classes of one half call it
        self._inputs: Axes = {part.input: {}}  # chooses the part of a processor
        self._inputs = {name: AXES.get(name, {0: "batch"}) for name in self.generate_dummy_inputs(preprocessor)}
        if part.input not in self._inputs:
            raise UnsupportedError(f"{type(preprocessor).__name__} makes no {part.input}, which {component} takes")

    @property
    def inputs(self) -> Axes:
        """Those of what the processor makes that the encoder takes."""
        return self._inputs

    @property
    def outputs(self) -> Axes:
        """The embedding of each text, image or audio clip, [batch, size], not normalized yet."""
        return {self._output: {0: "batch"}}

    def generate_dummy_inputs(  # type: ignore[override]
        self, preprocessor: Any, batch_size: int = -1, seq_length: int = -1, **named: Any
    ) -> Mapping[str, Any]:
        """Make texts, images or audio; see `OnnxConfig`."""
        made = super().generate_dummy_inputs(preprocessor, batch_size, seq_length, **{**named, "framework": "pt"})
        return {name: made[name] for name in self._parameters if name in made}

    def _component(self, preprocessor: Any) -> Any:
        if "input_ids" in self._inputs:
            return getattr(preprocessor, "tokenizer", None) or preprocessor
        return super()._component(preprocessor)

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the encoder and what brings its state to the size of the other's."""
        model = model_of(forward)
        return {self._output: getattr(model, self._method)(**arguments, return_dict=True).pooler_output}
