"""Describe Kosmos-2.5's vision encoder, for which Transformers has no separate method."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.description.forward import RETURNED
from onnxport.description.multimodal import ModalityEncoderOnnxConfig

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from onnxport.configs import OnnxConfig
    from onnxport.description.preprocessor import Preprocessor


class Kosmos25ImageEncoderOnnxConfig(ModalityEncoderOnnxConfig):
    """Describe the encoder of flattened patches."""

    def method_of(self, model: PreTrainedModel) -> Callable[..., Any]:
        """Return the function that encodes images."""
        return MethodType(_encode, model)


def _encode(model: PreTrainedModel, flattened_patches: torch.Tensor, **_: Any) -> torch.Tensor:
    """Encode images as the model's forward does.

    Args:
        model: the full model.
        flattened_patches: [batch, patches, 2 + values]; row, column and pixel values of each patch.
        **_: not used.

    Returns:
        Image features, [batch, latent queries, hidden_size of the decoder].
    """
    from torch.nn.functional import normalize

    hidden_states = model.vision_model(flattened_patches=flattened_patches, return_dict=True).last_hidden_state
    features: torch.Tensor = model.image_to_text_projection(normalize(hidden_states, dim=-1))[0]
    return features


def _vision_encoder(model: PreTrainedModel, preprocessor: Preprocessor) -> OnnxConfig:
    return Kosmos25ImageEncoderOnnxConfig(model, "vision_encoder", preprocessor)


ARCHITECTURES = (
    Architecture(
        ("kosmos-2.5",),
        encoders={"vision_encoder": _vision_encoder},
        left_out=dict.fromkeys(("width", "height"), RETURNED),
        tiny=Tiny(
            {
                "vision_config": {"...": 0, "patch_embed_hidden_size": 768},
                "text_config": {"...": 0, "max_position_embeddings": 4096},  # more than the tokens of an image
            }
        ),
    ),
)
