"""Describe GIT for image-to-text generation: image embeddings precede the prompt in its decoder's sequence.

Transformers concatenates them with the prompt's embeddings inside the model. Here the decoder takes the concatenation:
`token_type_ids` is 1 for image embeddings, which attend to each other bidirectionally and have no position embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MethodType
from typing import TYPE_CHECKING, Any

from onnxport._transformers_api import PAST, cache_name
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
    """Describe the image encoder with the projection to the decoder's hidden size."""

    def method_of(self, model: PreTrainedModel) -> Callable[..., Any]:
        """Return the function that encodes images."""
        return MethodType(_encode, model)


def _encode(model: PreTrainedModel, pixel_values: torch.Tensor, **_: Any) -> torch.Tensor:
    """Encode images as `GitModel.forward` does.

    Args:
        model: the full model.
        pixel_values: [batch, channels, height, width].
        **_: not used.

    Returns:
        Image embeddings, [batch, patches + 1, hidden_size].
    """
    features: torch.Tensor = model.git.visual_projection(model.git.image_encoder(pixel_values).last_hidden_state)
    return features


class GitDecoderOnnxConfig(EmbedsDecoderOnnxConfig):
    """Describe the decoder."""

    def parameters_of(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Return the decoder's parameters, including `token_type_ids`, which forward creates itself."""
        return ("input_ids", "attention_mask", "position_ids", "past_key_values", "logits_to_keep", "token_type_ids")

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the decoder and its head, as `GitModel.forward` does after its image encoder."""
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
            use_cache: bool = False,
            logits_to_keep: int = 0,
            **_: Any,
        ) -> dict[str, Any]:
            cache = DynamicCache(config=model.config) if use_cache and past_key_values is None else past_key_values
            is_image = token_type_ids == 1
            # the embeddings module adds position embeddings in place
            with_positions = model.git.embeddings(inputs_embeds=inputs_embeds.clone(), position_ids=position_ids)
            hidden_states = torch.where(is_image[..., None], inputs_embeds, with_positions)
            mask = create_causal_mask(
                config=model.config,
                inputs_embeds=hidden_states,
                attention_mask=attention_mask,
                block_sequence_ids=torch.where(is_image, 0, -1),
                **{cache_name(): cache},
            )
            hidden_states = model.git.encoder(
                hidden_states, attention_mask=mask, use_cache=cache is not None, **{cache_name(): cache}
            ).last_hidden_state
            logits = model.output(hidden_states[:, -logits_to_keep:])
            return {"logits": logits, **({} if cache is None else {PAST: cache})}

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
