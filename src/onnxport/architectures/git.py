"""Describe GIT for generation from images: its decoder's sequence starts with the image's embeddings.

Transformers concatenates them with the prompt's embeddings inside the model. Here the decoder takes the concatenation:
`token_type_ids` is 1 for the image's embeddings, which attend to each other and have no position embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MethodType
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture
from onnxport.configs._base import model_of
from onnxport.description.multimodal import EmbedsDecoderOnnxConfig, ModalityEncoderOnnxConfig

if TYPE_CHECKING:
    import torch
    from transformers import Cache, PreTrainedConfig, PreTrainedModel

    from onnxport.configs import OnnxConfig
    from onnxport.description.encoder_outputs import Modality
    from onnxport.description.preprocessor import Preprocessor


class GitImageEncoderOnnxConfig(ModalityEncoderOnnxConfig):
    """Describe the image encoder with its projection to the decoder's hidden size."""

    def method_of(self, model: PreTrainedModel) -> Callable[..., Any]:
        """Return the function that encodes images."""
        return MethodType(_encode, model)


def _encode(model: PreTrainedModel, pixel_values: torch.Tensor, **_: Any) -> torch.Tensor:
    """Encode images as `GitModel.forward` does.

    Args:
        model: the whole model.
        pixel_values: [batch, channels, height, width].
        **_: not used.

    Returns:
        [batch, patches + 1, hidden size].
    """
    features: torch.Tensor = model.git.visual_projection(model.git.image_encoder(pixel_values).last_hidden_state)
    return features


class GitDecoderOnnxConfig(EmbedsDecoderOnnxConfig):
    """Describe the decoder."""

    def parameters_of(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Name the decoder's parameters; the whole model's forward computes `token_type_ids`."""
        return ("input_ids", "attention_mask", "position_ids", "past_key_values", "logits_to_keep", "token_type_ids")

    def run(self, forward: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Run the decoder and its head, as `GitModel.forward` does behind its image encoder."""
        import torch
        from transformers import DynamicCache
        from transformers.masking_utils import create_causal_mask

        model = model_of(forward)

        def decode(
            *,
            inputs_embeds: torch.Tensor,
            attention_mask: torch.Tensor,
            position_ids: torch.Tensor,
            token_type_ids: torch.Tensor,
            past_key_values: Cache | None = None,
            logits_to_keep: int = 0,
            **_: Any,
        ) -> dict[str, Any]:
            cache = DynamicCache(config=model.config) if past_key_values is None else past_key_values
            is_image = token_type_ids == 1
            # the module adds the position embeddings in place
            text = model.git.embeddings(inputs_embeds=inputs_embeds.clone(), position_ids=position_ids)
            hidden_states = torch.where(is_image[..., None], inputs_embeds, text)
            mask = create_causal_mask(
                config=model.config,
                inputs_embeds=hidden_states,
                attention_mask=attention_mask,
                past_key_values=cache,
                block_sequence_ids=torch.where(is_image, 0, -1),
            )
            hidden_states = model.git.encoder(
                hidden_states, attention_mask=mask, past_key_values=cache, use_cache=True
            ).last_hidden_state
            return {"logits": model.output(hidden_states[:, -logits_to_keep:]), "past_key_values": cache}

        return super().run(decode, arguments)


def _vision_encoder(model: PreTrainedModel, preprocessor: Preprocessor) -> OnnxConfig:
    return GitImageEncoderOnnxConfig(model, "vision_encoder", preprocessor)


def _modality(modality: Modality, _: PreTrainedConfig) -> Modality:
    return replace(modality, merge="prefix")


ARCHITECTURES = (
    Architecture(
        ("git",),
        encoders={"vision_encoder": _vision_encoder},
        decoder=GitDecoderOnnxConfig,
        modalities=_modality,
    ),
)
