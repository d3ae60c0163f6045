"""Describe the vision encoder of Idefics2, whose images are padded with empty ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture
from onnxport.architectures.idefics3 import TiledImageEncoderOnnxConfig
from onnxport.configs._base import model_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from onnxport.configs import OnnxConfig
    from onnxport.description.preprocessor import Preprocessor


class Idefics2ImageEncoderOnnxConfig(TiledImageEncoderOnnxConfig):
    """Describe an encoder whose connector attends to the patches that have no padding."""

    def run(self, forward: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Run the encoder on all images, and drop the features of padding images."""
        model = model_of(forward).base_model
        images, mask = (arguments[name].flatten(0, 1) for name in ("pixel_values", "pixel_attention_mask"))
        side = self._config.vision_config.patch_size
        patches = mask.unfold(1, side, side).unfold(2, side, side).flatten(3).all(-1)
        hidden_states = model.vision_model(
            pixel_values=images, patch_attention_mask=patches, return_dict=True
        ).last_hidden_state
        valid = (images != 0).flatten(1).any(-1)
        return {"image_features": model.connector(hidden_states, attention_mask=patches.flatten(1))[valid]}


def _vision_encoder(model: PreTrainedModel, _: Preprocessor) -> OnnxConfig:
    return Idefics2ImageEncoderOnnxConfig(model.config)


ARCHITECTURES = (Architecture(("idefics2",), encoders={"vision_encoder": _vision_encoder}),)
