"""Describe Granite 4 Vision, whose decoder adds image features to the hidden states of several of its layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.architectures.llava_next import AnyresEncoderOnnxConfig
from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.description.multimodal import DeepstackDecoderOnnxConfig

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel
    from transformers.models.granite4_vision.modeling_granite4_vision import Granite4VisionModel

    from onnxport.description.preprocessor import Preprocessor


class DeepstackAnyresEncoderOnnxConfig(AnyresEncoderOnnxConfig):
    """Describe the vision encoder, which returns features for each of the decoder's layers that add any."""

    @property
    def outputs(self) -> Axes:
        """Zeros at the placeholder tokens, and the features to add, [layers that add, placeholder tokens, size]."""
        return {**super().outputs, "deepstack_features": {}}

    def run(self, forward: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Run the encoder; see `AnyresEncoderOnnxConfig`."""
        import torch

        if torch.compiler.is_exporting():
            return super().run(forward, arguments)
        outputs = model_of(forward).get_image_features(**arguments, return_dict=True).deepstack_features
        by_layer = {layer: torch.cat(list(features)) for layer, features in outputs}
        return self._named_outputs([by_layer[layer] for layer in sorted(by_layer)])

    def _named_outputs(self, features: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        import torch

        return {"image_features": torch.zeros_like(features[0]), "deepstack_features": torch.stack(features)}

    def _tile_features(self, model: Granite4VisionModel, tiles: torch.Tensor) -> list[torch.Tensor]:
        config, by_layer = self._config, {}
        hidden_states = model.vision_tower(tiles, output_hidden_states=True, return_dict=True).hidden_states
        first = 1 if config.vision_feature_select_strategy == "default" else 0
        for projector, (source, layer) in zip(model.layerwise_projectors, config.deepstack_layer_map, strict=True):
            by_layer[layer] = projector(hidden_states[source][:, first:])
        for projector, layer in zip(model.spatial_projectors, config.spatial_target_layers, strict=False):
            by_layer[layer] = projector(hidden_states[config.spatial_vision_layer][:, first:])
        return [by_layer[layer] for layer in sorted(by_layer)]

    @property
    def _side(self) -> int:
        return int(super()._side * Fraction(self._config.downsample_rate))


class DeepstackTextDecoderOnnxConfig(DeepstackDecoderOnnxConfig):
    """Describe the decoder, some of whose layers each take image features that are added to their hidden states."""

    @property
    def _adding(self) -> Sequence[int]:
        config = self._config
        return sorted({*(layer for _, layer in config.deepstack_layer_map), *config.spatial_target_layers})

    def run(self, forward: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Run the decoder; features are added at every position, and are zeros where Transformers' mask is false."""
        layers, decoder_inputs = model_of(forward).model.language_model.layers, dict(arguments)
        added = zip(self._adding, decoder_inputs.pop("deepstack_embeds"), strict=True)
        handles = [layers[layer].register_forward_pre_hook(partial(_add, features)) for layer, features in added]
        try:
            return super().run(forward, decoder_inputs)
        finally:
            for handle in handles:
                handle.remove()


def _add(features: torch.Tensor, _: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return (arguments[0] + features, *arguments[1:])


def _vision_encoder(model: PreTrainedModel, _: Preprocessor) -> OnnxConfig:
    return DeepstackAnyresEncoderOnnxConfig(model.config)


_TINY = Tiny(
    {
        "deepstack_layer_map": [[-3, 0], [-1, 1]],
        "spatial_target_layers": [0, 1, 2, 3],
        "downsample_rate": "1/2",
        "image_grid_pinpoints": [[64, 128], [128, 64], [128, 128]],
        "text_config": {"...": 0, "hidden_size": 64},
        "vision_config": {"...": 0, "hidden_size": 64},
    }
)
ARCHITECTURES = (
    Architecture(
        ("granite4_vision",),
        encoders={"vision_encoder": _vision_encoder},
        decoder=DeepstackTextDecoderOnnxConfig,
        tiny=_TINY,
    ),
)
