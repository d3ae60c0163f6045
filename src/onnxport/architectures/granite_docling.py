"""Describe Granite Docling, whose first decoder layers each add features of another layer of the vision encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from onnxport._needs import MoreLayersNeededError
from onnxport.architectures._architecture import Architecture
from onnxport.architectures.granite4_vision import DeepstackTextDecoderOnnxConfig
from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.configs._parameters import compute_effective_axis_dimension
from onnxport.description.joined_features import keeping_features_joined
from onnxport.description.multimodal import ModalityEncoderOnnxConfig

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.utils.hooks import RemovableHandle
    from transformers import PreTrainedModel

    from onnxport.description.preprocessor import Preprocessor


class DeepstackTilesEncoderOnnxConfig(ModalityEncoderOnnxConfig):
    """Describe an encoder of image tiles, with features for several decoder layers."""

    @property
    def inputs(self) -> Axes:
        """Tiles, [batch, tiles, channels, height, width], and a mask of those that aren't padding, [batch, tiles]."""
        axes = {0: "batch", 1: "num_images"}
        return {"pixel_values": axes, "pixel_attention_mask": axes}

    @property
    def outputs(self) -> Axes:
        """Features of all tiles, [features, hidden_size], and those of DeepStack, [layers, features, hidden_size]."""
        return {"image_features": {}, "deepstack_features": {}}

    def generate_dummy_inputs(  # type: ignore[override]
        self, preprocessor: Preprocessor, batch_size: int = -1, **sizes: Any
    ) -> Mapping[str, Any]:
        """Make images of two tiles each; see `OnnxConfig`."""
        import torch

        batch, side = compute_effective_axis_dimension(batch_size, 2), self._config.vision_config.image_size
        pixels = torch.zeros(batch, 2, self._config.vision_config.num_channels, side, side)
        return {"pixel_values": pixels, "pixel_attention_mask": torch.ones(batch, 2, dtype=torch.bool)}

    def run(self, forward: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Run the encoder, and concatenate the features of all images."""
        import torch

        with keeping_features_joined() if torch.compiler.is_exporting() else nullcontext():
            outputs = model_of(forward).base_model.get_image_features(**arguments, return_dict=True)
        layers = [torch.cat(list(features)) for features in outputs.deepstack_features]
        if len(layers) < len(self._config.vision_config.deepstack_visual_indexes):
            raise MoreLayersNeededError("the vision encoder has fewer layers than DeepStack takes features of")
        return {"image_features": torch.cat(list(outputs.pooler_output)), "deepstack_features": torch.stack(layers)}


class DeepstackAfterLayersOnnxConfig(DeepstackTextDecoderOnnxConfig):
    """Describe a decoder that adds image features to the hidden states that its first layers return."""

    @property
    def _deepstack_layers(self) -> Sequence[int]:
        return range(len(self._config.vision_config.deepstack_visual_indexes))

    def layers_of(self, model: PreTrainedModel) -> nn.ModuleList:
        """Return the decoder's layers."""
        return cast("nn.ModuleList", model.text_model.layers)

    def add_to(self, layer: nn.Module, features: torch.Tensor) -> RemovableHandle:
        """Add features to the hidden states that a layer returns."""
        return layer.register_forward_hook(partial(_add, features))


def _add(features: torch.Tensor, _: object, __: object, hidden_states: torch.Tensor) -> torch.Tensor:
    return hidden_states + features


def _vision_encoder(model: PreTrainedModel, preprocessor: Preprocessor) -> OnnxConfig:
    return DeepstackTilesEncoderOnnxConfig(model, "vision_encoder", preprocessor)


ARCHITECTURES = (
    Architecture(
        ("granite_docling",),
        encoders={"vision_encoder": _vision_encoder},
        decoder=DeepstackAfterLayersOnnxConfig,
        left_out={"tile_fine_mask": "for four times as many features of each tile"},
    ),
)
