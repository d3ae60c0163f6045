"""Describe Granite 4 Vision: several layers of its decoder each add features of the images of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.architectures.llava_next import AnyresEncoderOnnxConfig
from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.description.multimodal import DeepstackDecoderOnnxConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from onnxport.description.preprocessor import Preprocessor


class DeepstackAnyresEncoderOnnxConfig(AnyresEncoderOnnxConfig):
    """Describe the encoder of Granite 4 Vision: several layers of the decoder each get states of their own to add."""

    @property
    def outputs(self) -> Axes:
        """Zeros, which stand in the text, and what such layers add, in their order, [such layers, places, size]."""
        return {**super().outputs, "deepstack_features": {}}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the encoder; see `AnyresEncoderOnnxConfig`."""
        import torch

        if torch.compiler.is_exporting():
            return super().run(forward, arguments)
        outputs = model_of(forward).get_image_features(**arguments, return_dict=True).deepstack_features
        found = {layer: torch.cat(list(states)) for layer, states in outputs}
        return self._named([found[layer] for layer in sorted(found)])

    def _named(self, states: list[Any]) -> dict[str, Any]:
        import torch

        return {"image_features": torch.zeros_like(states[0]), "deepstack_features": torch.stack(states)}

    def _encoded(self, model: PreTrainedModel, tiles: Any) -> list[Any]:
        config, found = self._config, {}
        outputs = model.vision_tower(tiles, output_hidden_states=True, return_dict=True).hidden_states
        first = 1 if config.vision_feature_select_strategy == "default" else 0
        for projector, (seen, layer) in zip(model.layerwise_projectors, config.deepstack_layer_map, strict=True):
            found[layer] = projector(outputs[seen][:, first:])
        for projector, layer in zip(model.spatial_projectors, config.spatial_target_layers, strict=False):
            found[layer] = projector(outputs[config.spatial_vision_layer][:, first:])
        return [found[layer] for layer in sorted(found)]

    @property
    def _side(self) -> int:
        return int(super()._side * Fraction(self._config.downsample_rate))


class DeepstackTextDecoderOnnxConfig(DeepstackDecoderOnnxConfig):
    """Describe the decoder of Granite 4 Vision, some of whose layers each add features of the images."""

    @property
    def _deepstack_layers(self) -> Sequence[int]:
        config = self._config
        return sorted({*(layer for _, layer in config.deepstack_layer_map), *config.spatial_target_layers})

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the decoder, whose layers add states at places that a mask chooses: here, at all places."""
        layers, given = model_of(forward).model.language_model.layers, dict(arguments)
        adding = zip(self._deepstack_layers, given.pop("deepstack_embeds"), strict=True)
        handles = [layers[number].register_forward_pre_hook(partial(_add, more)) for number, more in adding]
        try:
            return super().run(forward, given)
        finally:
            for handle in handles:
                handle.remove()


def _add(more: Any, _: Any, taken: tuple[Any, ...]) -> tuple[Any, ...]:
    return (taken[0] + more, *taken[1:])


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
