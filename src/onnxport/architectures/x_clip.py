"""X-CLIP: its vision encoder takes the frames of a video as samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, always
from onnxport.description.derived import DerivedOnnxConfig

if TYPE_CHECKING:
    import torch


class FramesOnnxConfig(DerivedOnnxConfig):
    """Describe an encoder of videos, whose frames are concatenated."""

    def fit_inputs(self, inputs: dict[str, torch.Tensor]) -> None:
        """Concatenate the frames, [videos * num_frames, channels, height, width]."""
        inputs["pixel_values"] = inputs["pixel_values"].flatten(0, 1)

    def _axes_of(self, inputs: Mapping[str, Any]) -> dict[str, Mapping[int, str]]:
        return {**super()._axes_of(inputs), "pixel_values": {0: "frames"}}


ARCHITECTURES = (Architecture(("xclip_vision_model",), model=always(FramesOnnxConfig)),)
