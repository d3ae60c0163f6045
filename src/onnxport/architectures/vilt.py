"""ViLT: several images for each text, and fields of its tiny configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, Tiny, always
from onnxport.description.derived import DerivedOnnxConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from onnxport.configs import OnnxConfig
    from onnxport.description.preprocessor import Preprocessor
    from onnxport.description.tasks import Task

_IMAGES = ("pixel_values", "pixel_mask")


class SeveralImagesOnnxConfig(DerivedOnnxConfig):
    """Describe a classifier of a text with several images, [batch, num_images, channels, height, width]."""

    def fit_inputs(self, inputs: dict[str, Any]) -> None:
        """Repeat each image."""
        for name in _IMAGES:
            if name in inputs:
                inputs[name] = (
                    inputs[name]
                    .repeat_interleave(self._config.num_images, 0)
                    .unflatten(0, (-1, self._config.num_images))
                )

    def _axes_of(self, inputs: Mapping[str, Any]) -> dict[str, Mapping[int, str]]:
        images = {
            "pixel_values": {0: "batch", 3: "height", 4: "width"},
            "pixel_mask": {0: "batch", 2: "height", 3: "width"},
        }
        return {**super()._axes_of(inputs), **{name: axes for name, axes in images.items() if name in inputs}}


def _describe(model: PreTrainedModel, task: Task, preprocessor: Preprocessor, last_logits: bool) -> OnnxConfig | None:
    if type(model).__name__ != "ViltForImagesAndTextClassification":
        return None
    return always(SeveralImagesOnnxConfig)(model, task, preprocessor, last_logits)


ARCHITECTURES = (
    Architecture(
        ("vilt",), model=_describe, tiny=Tiny(tasks={"architecture": {"num_images": 2, "modality_type_vocab_size": 3}})
    ),
)
