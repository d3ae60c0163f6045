"""Describe the vision encoder of InstructBLIP-Video, whose classes only have `get_video_features`."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.description.multimodal import ModalityEncoderOnnxConfig

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from onnxport.configs import OnnxConfig
    from onnxport.description.preprocessor import Preprocessor


class InstructBlipVideoEncoderOnnxConfig(ModalityEncoderOnnxConfig):
    """Describe the encoder of video frames."""

    def method_of(self, model: PreTrainedModel) -> Callable[..., Any]:
        """Return the function that encodes video frames."""
        return MethodType(_encode, model)


def _encode(
    model: PreTrainedModel,
    pixel_values: torch.Tensor,
    qformer_input_ids: torch.Tensor,
    qformer_attention_mask: torch.Tensor | None = None,
    **_: Any,
) -> Any:
    """Encode video frames as InstructBLIP encodes images.

    Args:
        model: the full model.
        pixel_values: [batch, frames, channels, height, width].
        qformer_input_ids: [batch, sequence].
        qformer_attention_mask: [batch, sequence].
        **_: not used.
    """
    inputs = {"qformer_input_ids": qformer_input_ids, "qformer_attention_mask": qformer_attention_mask}
    return model.get_video_features(pixel_values, **inputs, return_dict=True)


def _vision_encoder(model: PreTrainedModel, preprocessor: Preprocessor) -> OnnxConfig:
    return InstructBlipVideoEncoderOnnxConfig(model, "vision_encoder", preprocessor)


ARCHITECTURES = (
    Architecture(
        ("instructblipvideo",), encoders={"vision_encoder": _vision_encoder}, tiny=Tiny({"video_token_index": 120})
    ),
)
