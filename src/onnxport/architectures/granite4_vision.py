"""Describe Granite 4 Vision, where several decoder layers each add different deepstack image features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.architectures.llava_next import AnyresEncoderOnnxConfig
from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.description.multimodal import DeepstackDecoderOnnxConfig

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.utils.hooks import RemovableHandle
    from transformers import PreTrainedModel

    from onnxport.description.preprocessor import Preprocessor


class DeepstackAnyresEncoderOnnxConfig(AnyresEncoderOnnxConfig):
    """Describe the vision encoder of Granite 4 Vision, with separate features for several decoder layers."""

    @property
    def outputs(self) -> Axes:
        """Zeros for the placeholder tokens, and each deepstack layer's features, [layers, features, hidden_size]."""
        return {**super().outputs, "deepstack_features": {}}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the encoder; see `AnyresEncoderOnnxConfig`."""
        import torch

        if torch.compiler.is_exporting():
            return super().run(forward, arguments)
        outputs = model_of(forward).get_image_features(**arguments, return_dict=True).deepstack_features
        by_layer = {layer: torch.cat(list(features)) for layer, features in outputs}
        return self._to_outputs([by_layer[layer] for layer in sorted(by_layer)])

    def _to_outputs(self, features: list[Any]) -> dict[str, Any]:
        import torch

        return {"image_features": torch.zeros_like(features[0]), "deepstack_features": torch.stack(features)}

    def _encode_tiles(self, model: PreTrainedModel, tiles: Any) -> list[Any]:
        config, by_layer = self._config, {}
        hidden_states = model.vision_tower(tiles, output_hidden_states=True, return_dict=True).hidden_states
        start = 1 if config.vision_feature_select_strategy == "default" else 0
        for projector, (index, layer) in zip(model.layerwise_projectors, config.deepstack_layer_map, strict=True):
            by_layer[layer] = projector(hidden_states[index][:, start:])
        for projector, layer in zip(model.spatial_projectors, config.spatial_target_layers, strict=False):
            by_layer[layer] = projector(hidden_states[config.spatial_vision_layer][:, start:])
        return [by_layer[layer] for layer in sorted(by_layer)]

    @property
    def _features_per_side(self) -> int:
        return int(super()._features_per_side * Fraction(self._config.downsample_rate))


class DeepstackTextDecoderOnnxConfig(DeepstackDecoderOnnxConfig):
    """Describe the decoder of Granite 4 Vision, some of whose layers each add image features."""

    @property
    def _deepstack_layers(self) -> Sequence[int]:
        config = self._config
        return sorted({*(layer for _, layer in config.deepstack_layer_map), *config.spatial_target_layers})

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the decoder with the features added at every position, not only at those of Transformers' mask."""
        layers, decoder_arguments = self.layers_of(model_of(forward).base_model), dict(arguments)
        features_by_layer = zip(self._deepstack_layers, decoder_arguments.pop("deepstack_embeds"), strict=True)
        handles = [self.add_to(layers[index], features) for index, features in features_by_layer]
        try:
            return super().run(forward, decoder_arguments)
        finally:
            for handle in handles:
                handle.remove()

    def layers_of(self, model: PreTrainedModel) -> nn.ModuleList:
        """Return the decoder's layers; a hook.

        Args:
            model: the base model.
        """
        return cast("nn.ModuleList", model.language_model.layers)

    def add_to(self, layer: nn.Module, features: torch.Tensor) -> RemovableHandle:
        """Add features to the hidden states that a layer takes, until the handle is removed; a hook.

        Args:
            layer: a layer of the decoder.
            features: [batch, sequence, hidden_size].
        """
        return layer.register_forward_pre_hook(partial(_add_features, features))


def _add_features(features: Any, _: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0] + features, *inputs[1:])


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
