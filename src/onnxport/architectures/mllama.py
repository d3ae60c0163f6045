"""Describe Mllama for image-to-text generation, where some decoder layers cross-attend to image features.

Their keys and values are cached like an encoder-decoder's: they are computed from all features in the first step. The
decoder's graph has features as inputs in every step, and computes keys and values of the features that aren't cached
yet: all in the first step, none later. `cross_attention_mask` has a column for each feature, cached or not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from onnxport._transformers_api import PAST, call_forward
from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.configs._parameters import compute_effective_axis_dimension
from onnxport.description.cache_layout import CACHED_ROWS, CacheLayout
from onnxport.description.multimodal import EmbedsDecoderOnnxConfig

if TYPE_CHECKING:
    import torch
    from transformers import Cache, PreTrainedConfig, PreTrainedModel

    from onnxport.description.encoder_outputs import Modality
    from onnxport.description.preprocessor import Preprocessor
    from onnxport.description.tasks import Task

_DUMMY_FEATURES = 5
"""Number of image features in dummy inputs."""


class MllamaImageEncoderOnnxConfig(OnnxConfig):
    """Describe the encoder of image tiles."""

    @property
    def inputs(self) -> Axes:
        """Tiles, the aspect ratio of each image, and the mask of tiles that aren't padding.

        `pixel_values` is [batch, images, tiles, channels, height, width], `aspect_ratio_ids` is [batch, images], and
        `aspect_ratio_mask` is [batch, images, tiles].
        """
        images = {0: "batch", 1: "num_images"}
        return {"pixel_values": images, "aspect_ratio_ids": images, "aspect_ratio_mask": images}

    @property
    def outputs(self) -> Axes:
        """Features in the decoder's hidden size, [batch, images * tiles * (patches + 1), hidden_size]."""
        return {"image_features": {0: "batch"}}

    def generate_dummy_inputs(  # type: ignore[override]
        self, preprocessor: Preprocessor, batch_size: int = -1, **named: Any
    ) -> Mapping[str, Any]:
        """Create dummy images with different numbers of tiles."""
        import torch

        vision = getattr(self._config, "vision_config", self._config)
        batch, images, tiles = (
            compute_effective_axis_dimension(batch_size, self.default_batch_size),
            2,
            vision.max_num_tiles,
        )
        ids = 1 + torch.arange(batch * images).reshape(batch, images) % vision.max_aspect_ratio_id
        counts = torch.tensor([0, *(rows * columns for rows, columns in vision.supported_aspect_ratios)])[ids]
        side = vision.image_size
        return {
            "pixel_values": torch.zeros(batch, images, tiles, vision.num_channels, side, side),
            "aspect_ratio_ids": ids,
            "aspect_ratio_mask": (torch.arange(tiles) < counts[..., None]).long(),
        }

    def run(self, forward: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Run the encoder and the projector, as `MllamaModel.forward` does."""
        model = model_of(forward).base_model
        features = model.multi_modal_projector(model.vision_model(**arguments, return_dict=True).last_hidden_state)
        return {"image_features": features.flatten(1, 3)}


class MllamaVisionModelOnnxConfig(MllamaImageEncoderOnnxConfig):
    """Describe the encoder of image tiles that is exported on its own."""

    @property
    def outputs(self) -> Axes:
        """Hidden states, [batch, images, tiles, patches + 1, hidden_size * (1 + intermediate layers)]."""
        return {"last_hidden_state": {0: "batch"}}

    def run(self, forward: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Run the encoder."""
        return call_forward(forward, arguments)


class MllamaDecoderOnnxConfig(EmbedsDecoderOnnxConfig):
    """Describe the decoder with its language modeling head."""

    # A prompt without images has no features: PyTorch 2.13's translation of scaled_dot_product_attention reshapes the
    # keys without allowzero, and ONNX Runtime can't reshape an empty tensor that way.
    attn_implementation = "eager"

    def parameters_of(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Return the decoder's parameters; the full model's forward computes masks and image features."""
        return ("input_ids", "attention_mask", "position_ids", "past_key_values", "logits_to_keep")

    @property
    def inputs(self) -> Mapping[str, Mapping[int, str]]:
        """Inputs of `EmbedsDecoderOnnxConfig`, and image features, [batch, features, hidden_size], with their mask."""
        features = {
            "cross_attention_states": {0: "batch", 1: "image_sequence"},
            "cross_attention_mask": {0: "batch", 1: "sequence", 2: "past_image_sequence + image_sequence"},
        }
        return {**super().inputs, **features}

    def generate_dummy_inputs(self, *arguments: Any, **named: Any) -> Mapping[str, Any]:
        """Create dummy inputs; each token attends to every second feature, except the first, which attends to none."""
        import torch

        inputs = dict(super().generate_dummy_inputs(*arguments, **named))
        batch, length, size = inputs["inputs_embeds"].shape
        count = _DUMMY_FEATURES + (CACHED_ROWS if self.use_past else 0)
        mask = (torch.arange(length)[:, None] + torch.arange(count)) % 2
        mask[0] = 0
        inputs["cross_attention_states"] = torch.zeros(batch, _DUMMY_FEATURES, size)
        inputs["cross_attention_mask"] = mask.expand(batch, -1, -1).clone()
        return inputs

    def describe_cache(self, model: PreTrainedModel, cache: Cache) -> CacheLayout:
        """Describe the keys and values of tokens, and of image features in cross-attention layers."""
        layout = CacheLayout.of(model, cache)
        cross_attention = set(model.config.text_config.cross_attention_layers)
        layers = (
            tuple(
                replace(part, kind=f"encoder.{part.kind}", sequence="image_sequence")
                if part.layer in cross_attention
                else part
                for part in parts
            )
            for parts in layout.layers
        )
        return replace(layout, layers=tuple(layers))

    def run(self, forward: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Run the decoder and its head, as `MllamaModel.forward` does after its image encoder."""
        model = model_of(forward)

        def decode(
            *, cross_attention_mask: torch.Tensor, logits_to_keep: int = 0, use_cache: bool = False, **named: Any
        ) -> dict[str, Any]:
            mask, attends = _masks(cross_attention_mask, model.dtype)
            masks = {"cross_attention_mask": mask, "full_text_row_masked_out_mask": attends}
            outputs = call_forward(model.base_model.language_model, {**named, **masks, "use_cache": use_cache})
            if model is model.base_model:
                return outputs
            logits = model.lm_head(outputs["last_hidden_state"][:, -logits_to_keep:])
            return {"logits": logits, **{name: value for name, value in outputs.items() if name == PAST}}

        return super().run(decode, arguments)


def _masks(attended: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the additive cross-attention mask, and a mask of the tokens that attend to any feature.

    As in Transformers, a token that attends to no features isn't masked; the second mask disables its MLP.

    Args:
        attended: 1 for features that a token attends to, [batch, sequence, features].
        dtype: dtype of both masks.

    Returns:
        [batch, 1, sequence, features] and [batch, 1, sequence, 1].
    """
    import torch

    masked = attended[:, None] == 0
    attends = ((~masked).sum(-1, keepdim=True) > 0).to(dtype)  # `any` fails if there are no features
    mask = torch.zeros(masked.shape, dtype=dtype, device=attended.device)
    return mask.masked_fill(masked, torch.finfo(dtype).min) * attends, attends


def _vision_encoder(model: PreTrainedModel, _: Preprocessor) -> OnnxConfig:
    return MllamaImageEncoderOnnxConfig(model.config)


def _modality(modality: Modality, _: PreTrainedConfig) -> Modality:
    return replace(modality, merge="cross-attention")


def _vision_model(model: PreTrainedModel, _: Task, __: Preprocessor, ___: bool) -> OnnxConfig:
    return MllamaVisionModelOnnxConfig(model.config)


_TINY_VISION = {"intermediate_layers_indices": [0, 2], "vision_output_dim": 96}
ARCHITECTURES = (
    Architecture(("mllama_vision_model",), model=_vision_model, tiny=Tiny(fields=_TINY_VISION)),
    Architecture(
        ("mllama",),
        encoders={"vision_encoder": _vision_encoder},
        decoder=MllamaDecoderOnnxConfig,
        modalities=_modality,
        tiny=Tiny(
            fields={
                "vision_config": {"...": True, **_TINY_VISION},
                "text_config": {"...": True, "cross_attention_layers": [1, 3]},
            }
        ),
    ),
)
