"""Perceiver: the patches of two frames for optical flow, and fields of its tiny configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, Tiny, always
from onnxport.description.derived import DerivedOnnxConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from onnxport.configs import OnnxConfig
    from onnxport.description.preprocessor import Preprocessor
    from onnxport.description.tasks import Task

_FRAMES, _PATCH_CHANNELS = 2, 27
"""Frames, and values of the 3x3 patch around each pixel; see `PerceiverForOpticalFlow`."""


class OpticalFlowOnnxConfig(DerivedOnnxConfig):
    """Describe a model that computes the optical flow between two frames."""

    def fit_inputs(self, inputs: dict[str, Any]) -> None:
        """Make frames, [batch, frames, patch values, height, width], and a mask of their pixels."""
        import torch

        height, width = self._config.train_size
        batch = len(inputs.pop("input_ids", inputs["attention_mask"]))
        inputs["inputs"] = torch.zeros(batch, _FRAMES, _PATCH_CHANNELS, height, width)
        inputs["attention_mask"] = torch.ones(batch, height * width, dtype=torch.int64)

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        """The frames and the mask of their pixels."""
        return {name: {0: "batch"} for name in ("inputs", "attention_mask")}


def _describe(model: PreTrainedModel, task: Task, preprocessor: Preprocessor, last_logits: bool) -> OnnxConfig | None:
    if type(model).__name__ != "PerceiverForOpticalFlow":
        return None
    return always(OpticalFlowOnnxConfig)(model, task, preprocessor, last_logits)


ARCHITECTURES = (
    Architecture(("perceiver",), model=_describe, tiny=Tiny(fields={"num_latents": 8, "num_cross_attention_heads": 1})),
)
