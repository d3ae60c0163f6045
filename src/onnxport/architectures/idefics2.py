"""Describe the vision encoder of Idefics2, whose images are padded with empty ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture
from onnxport.architectures.idefics3 import TiledImageEncoderOnnxConfig

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from onnxport.configs import OnnxConfig
    from onnxport.description.preprocessor import Preprocessor


class Idefics2ImageEncoderOnnxConfig(TiledImageEncoderOnnxConfig):
    """Describe an encoder whose connector attends to the patches that have no padding."""

    def patches_of(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the mask of patches without padding."""
        return pixels.all(-1)

    def connected(self, model: PreTrainedModel, hidden_states: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        """Return the features that the connector computes from the patches without padding."""
        features: torch.Tensor = model.connector(hidden_states, attention_mask=patches.flatten(1))
        return features


def _vision_encoder(model: PreTrainedModel, _: Preprocessor) -> OnnxConfig:
    return Idefics2ImageEncoderOnnxConfig(model.config)


ARCHITECTURES = (Architecture(("idefics2",), encoders={"vision_encoder": _vision_encoder}),)
