"""Describe SAM as two graphs: an encoder of images, and a decoder of prompts that runs for each prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from onnxport.architectures._sam_prompts import SamOnnxConfig
from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.description.components import IMAGE_EMBEDDINGS, PROMPT_DECODER, Component
from onnxport.description.delegating import DelegatingOnnxConfig
from onnxport.description.derived import DerivedOnnxConfig, move

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from onnxport.description.preprocessor import Preprocessor

_INTERMEDIATE = "intermediate_embeddings"
_POSITIONS = "image_positional_embeddings"
_PIXELS = "pixel_values"


def split_prompts(model: PreTrainedModel, preprocessor: Preprocessor) -> tuple[Component, ...]:
    """Describe the two graphs, which have the names that optimum and transformers.js expect.

    Args:
        model: SAM, SAM-HQ, SAM 2, EdgeTAM or SAM 3's tracker.
        preprocessor: makes `pixel_values`.
    """
    encoder = SamImageEncoderOnnxConfig(model, preprocessor)
    whole = SamOnnxConfig(model, preprocessor)
    return (
        Component("vision_encoder", model, encoder, preprocessor),
        Component(PROMPT_DECODER, model, SamPromptDecoderOnnxConfig(whole, model, preprocessor), preprocessor),
    )


def _embeddings_of(model: Any, pixel_values: torch.Tensor) -> dict[str, Any]:
    """Return the arguments of forward that replace `pixel_values`: tensors, or lists of them."""
    embeddings = model.get_image_embeddings(pixel_values)
    if isinstance(embeddings, tuple) and len(embeddings) == len((IMAGE_EMBEDDINGS, _INTERMEDIATE)):  # SAM-HQ
        return {IMAGE_EMBEDDINGS: embeddings[0], _INTERMEDIATE: embeddings[1]}
    return {IMAGE_EMBEDDINGS: embeddings}


class SamImageEncoderOnnxConfig(DerivedOnnxConfig):
    """Describe the encoder of images: `image_embeddings`, or several of different sizes, and position embeddings."""

    def parameters_of(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Return the name of its input."""
        return (_PIXELS,)

    @property
    def static_symbols(self) -> frozenset[str]:
        """The size of the images, from which the size of the embeddings follows, which the decoder fixes."""
        return frozenset(("height", "width"))

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Encode images; see `OnnxConfig`."""
        model, pixel_values = model_of(forward), arguments[_PIXELS]
        embeddings = _embeddings_of(model, pixel_values)
        if isinstance(embeddings[IMAGE_EMBEDDINGS], list | tuple):
            return embeddings
        positions = model.get_image_wide_positional_embeddings()  # transformers.js and optimum pass them on
        return {**embeddings, _POSITIONS: positions.repeat(pixel_values.shape[0], 1, 1, 1)}


class SamPromptDecoderOnnxConfig(DelegatingOnnxConfig):
    """Describe the decoder of points, boxes and masks, which takes the embeddings of the image.

    Args:
        whole: description of the whole model.
        model: the model; its encoder is run once.
        preprocessor: makes `pixel_values`.
    """

    def __init__(self, whole: OnnxConfig, model: PreTrainedModel, preprocessor: Preprocessor) -> None:
        import torch

        super().__init__(whole)
        inputs = move({_PIXELS: whole.generate_dummy_inputs(preprocessor)[_PIXELS]}, model)
        with torch.no_grad():
            embeddings = _embeddings_of(model, inputs[_PIXELS])
        self._shapes = {
            name: tuple(one.shape[1:]) if isinstance(one, torch.Tensor) else [tuple(item.shape[1:]) for item in one]
            for name, one in embeddings.items()
        }

    @property
    def inputs(self) -> Axes:
        """The prompts, and the embeddings."""
        prompts = {name: axes for name, axes in self._trunk.inputs.items() if name != _PIXELS}
        names = [
            flat
            for name, shape in self._shapes.items()
            for flat in ([f"{name}.{i}" for i in range(len(shape))] if isinstance(shape, list) else [name])
        ]
        return {**prompts, **{name: {0: "batch"} for name in names}}

    @property
    def outputs(self) -> Axes:
        """Those of the whole model, without the embeddings (SAM 2)."""
        outputs = self._trunk.outputs
        return {name: axes for name, axes in outputs.items() if name.partition(".")[0] not in self._shapes}

    def generate_dummy_inputs(  # type: ignore[override]
        self, preprocessor: Any, *sizes: Any, **named: Any
    ) -> Mapping[str, Any]:
        """Make prompts, and embeddings of zeros; a list of embeddings is a list of tuples of one."""
        import torch

        inputs = dict(self._trunk.generate_dummy_inputs(preprocessor, *sizes, **named))
        batch = len(inputs.pop(_PIXELS))
        for name, shape in self._shapes.items():
            if isinstance(shape, list):
                inputs[name] = [(torch.zeros(batch, *one),) for one in shape]
            else:
                inputs[name] = torch.zeros(batch, *shape)
        return inputs

    def flatten_output_collection_property(  # type: ignore[override]  # as in the parent
        self, name: str, field: Any
    ) -> dict[str, Any]:
        """Flatten the embeddings by index, and other collections as the whole model does."""
        if name in self._shapes:
            return {f"{name}.{index}": tensor for index, (tensor,) in enumerate(field)}
        return super().flatten_output_collection_property(name, field)

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Decode prompts; see `OnnxConfig`."""
        embeddings = {
            name: [tensor for (tensor,) in arguments[name]] if isinstance(shape, list) else arguments[name]
            for name, shape in self._shapes.items()
        }
        outputs = self._trunk.run(forward, {**arguments, **embeddings})
        return {name: value for name, value in outputs.items() if name not in self._shapes}
