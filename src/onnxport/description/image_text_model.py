"""Describe a model that replaces the placeholder tokens of a prompt with image features in one graph.

It is an encoder, or an encoder-decoder that isn't exported for generation (`image_text_encoder.py` describes those).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from onnxport.description.derived import DerivedOnnxConfig, move
from onnxport.description.dummy_inputs import placeholder_token_id
from onnxport.description.image_text_encoder import ImageTextEncoderOnnxConfig
from onnxport.description.modalities import accepts_modality
from onnxport.description.multimodal import ModalityEncoderOnnxConfig

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from onnxport.configs import OnnxConfig


class ImageTextModelOnnxConfig(DerivedOnnxConfig):
    """Describe a model of token ids, some of which are placeholders of image features.

    Args:
        model: the model; the encoder of its images is run once.
        preprocessor: a processor with a tokenizer and an image processor.
        settings: as those of `DerivedOnnxConfig`.

    Raises:
        UnsupportedError: the model or the encoder of its images can't be described.
    """

    def __init__(self, model: PreTrainedModel, preprocessor: Any, *settings: bool) -> None:
        import torch

        self._token = self.placeholder_of(model.config)
        self._images, self._preprocessor = self.describe_images(model, preprocessor), preprocessor
        with torch.no_grad():
            images = move(dict(self._images.generate_dummy_inputs(preprocessor)), model)
            self._count = len(self.features(model, images)) // len(images["pixel_values"])
        super().__init__(model, preprocessor, *settings)

    def placeholder_of(self, config: PreTrainedConfig) -> int:
        """Return the id of the placeholder token of images; a hook.

        Args:
            config: the model's configuration.
        """
        return placeholder_token_id(config, "image") or 0

    def describe_images(self, model: PreTrainedModel, preprocessor: Any) -> OnnxConfig:
        """Describe the encoder of images; a hook.

        Args:
            model: the model.
            preprocessor: its preprocessor.
        """
        return ModalityEncoderOnnxConfig(model, "vision_encoder", preprocessor)

    def features(self, forward: Any, arguments: Mapping[str, Any]) -> torch.Tensor:
        """Return the features of the images among the inputs, [features, hidden_size].

        Args:
            forward: the model with the encoder, or its bound `forward`.
            arguments: the inputs by name.
        """
        images = {name: arguments[name] for name in self._images.inputs}
        features: torch.Tensor = self._images.run(forward, images)["image_features"]
        return features.flatten(0, -2)

    def fit_inputs(self, inputs: dict[str, Any]) -> None:
        """Begin each prompt with the placeholders of an image."""
        import torch

        placeholders = torch.full((len(inputs["input_ids"]), self._count), self._token)
        for name, first in (("input_ids", placeholders), ("attention_mask", torch.ones_like(placeholders))):
            inputs[name] = torch.cat([first, inputs[name]], dim=1)
        inputs |= self._images.generate_dummy_inputs(self._preprocessor, len(placeholders))

    def _axes_of(self, inputs: Mapping[str, Any]) -> dict[str, Mapping[int, str]]:
        images = {name: {**axes, 0: "num_images"} for name, axes in self._images.inputs.items()}
        return {**super()._axes_of(inputs), **images}

    def _component(self, preprocessor: Any) -> Any:
        return getattr(preprocessor, "tokenizer", None) or preprocessor

    @staticmethod
    def fits(model: PreTrainedModel) -> bool:
        """Return whether a model is an encoder-decoder whose encoder takes a prompt and an image."""
        is_encoder_decoder = model.config.is_encoder_decoder and accepts_modality(type(model))
        return bool(is_encoder_decoder) and ImageTextEncoderOnnxConfig.fits(model)
