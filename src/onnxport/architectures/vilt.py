"""ViLT: several images for each text, and fields of its tiny configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxport.architectures._architecture import Architecture, Tiny, of_class
from onnxport.description.derived import DerivedOnnxConfig

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


ARCHITECTURES = (
    Architecture(
        ("vilt",),
        model=of_class("ViltForImagesAndTextClassification", SeveralImagesOnnxConfig),
        tiny=Tiny(tasks={"architecture": {"num_images": 2, "modality_type_vocab_size": 3}}),
    ),
)
