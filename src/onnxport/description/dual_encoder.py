"""Describe each encoder of a dual encoder, a model that compares text with images or audio, as a separate graph."""

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
    """Return the names of a model's encoders, keys of `SPLIT_ENCODERS`.

    Raises:
        UnsupportedError: the model isn't a dual encoder.
    """
    names = tuple(name for name, part in SPLIT_ENCODERS.items() if hasattr(model, part.method))
    if len(names) < 2 or "text_model" not in names:
        raise UnsupportedError(
            f"{type(model).__name__} has no get_text_features with get_image_features or get_audio_features: leave out "
            "--split-encoders"
        )
    return names


class SplitEncoderOnnxConfig(OnnxConfig):
    """Describe one encoder of a dual encoder: that of text, images or audio.

    Args:
        model: the dual encoder.
        component: one of `SPLIT_ENCODERS`.
        preprocessor: makes token ids, pixel values or audio features.

    Raises:
        UnsupportedError: the preprocessor doesn't make the encoder's main input.
    """

    def __init__(self, model: PreTrainedModel, component: str, preprocessor: Any) -> None:
        super().__init__(model.config, task="default")
        part = SPLIT_ENCODERS[component]
        self._method = part.method
        self._parameters = tuple(inspect.signature(getattr(model, part.method)).parameters)
        projects = any("projection" in name for name, _ in model.named_children())
        self._output = part.output if projects else "pooler_output"  # as in Transformers' single-encoder classes
        self._inputs: Axes = {part.input: {}}  # selects the sub-processor
        self._inputs = {name: AXES.get(name, {0: "batch"}) for name in self.generate_dummy_inputs(preprocessor)}
        if part.input not in self._inputs:
            raise UnsupportedError(
                f"{type(preprocessor).__name__} returns no {part.input}, the main input of {component}: check the "
                "checkpoint's preprocessor files"
            )

    @property
    def inputs(self) -> Axes:
        """The preprocessor's outputs that the encoder takes."""
        return self._inputs

    @property
    def outputs(self) -> Axes:
        """The embedding of each text, image or audio clip, [batch, projection_dim], not normalized."""
        return {self._output: {0: "batch"}}

    def generate_dummy_inputs(  # type: ignore[override]
        self, preprocessor: Any, batch_size: int = -1, seq_length: int = -1, **named: Any
    ) -> Mapping[str, Any]:
        """Make token ids, images or audio; see `OnnxConfig`."""
        inputs = super().generate_dummy_inputs(preprocessor, batch_size, seq_length, **{**named, "framework": "pt"})
        return {name: inputs[name] for name in self._parameters if name in inputs}

    def _component(self, preprocessor: Any) -> Any:
        if "input_ids" in self._inputs:
            return getattr(preprocessor, "tokenizer", None) or preprocessor
        return super()._component(preprocessor)

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the encoder and its projection to the shared embedding space."""
        model = model_of(forward)
        return {self._output: getattr(model, self._method)(**arguments, return_dict=True).pooler_output}
