"""Describe an encoder-decoder whose encoder takes a prompt and an image (Florence-2, T5Gemma 2).

The encoder's graph computes the image's features and puts them in place of the prompt's placeholder tokens; the decoder
is that of any encoder-decoder. With `--split-encoders`, both take embeddings, and the encoder of images and the
embeddings of tokens are graphs of their own, as transformers.js loads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.description.components import Component
from onnxport.description.derived import move
from onnxport.description.dummy_inputs import placeholder_token_id
from onnxport.description.encoder_decoder import Seq2SeqDecoderOnnxConfig
from onnxport.description.multimodal import EMBEDS, ModalityEncoderOnnxConfig, method_of
from onnxport.description.token_embeddings import EmbedsOnnxConfig, TokenEmbeddingOnnxConfig
from onnxport.errors import UnsupportedError
from onnxport.patching.patch import Replacement
from onnxport.patching.scope import patching

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class ImageTextEncoderOnnxConfig(OnnxConfig):
    """Describe an encoder of token ids, some of which are placeholders of image features.

    Args:
        model: the encoder-decoder; the encoder of its images is run once.
        preprocessor: a processor with a tokenizer and an image processor.

    Raises:
        UnsupportedError: the encoder of its images can't be described.
    """

    def __init__(self, model: PreTrainedModel, preprocessor: Any) -> None:
        import torch

        super().__init__(model.config, task="default")
        self._token = placeholder_token_id(model.config, "image") or 0
        self._images = ModalityEncoderOnnxConfig(model, "vision_encoder", preprocessor)
        with torch.no_grad():
            images = move(dict(self._images.generate_dummy_inputs(preprocessor)), model)
            self._count = int(self._features(model, images).shape[1])

    @property
    def inputs(self) -> Axes:
        """Token ids and their mask, [batch, sequence], and images, one for each prompt."""
        tokens = {0: "batch", 1: "sequence"}
        return {"input_ids": tokens, "attention_mask": tokens, **self._images.inputs}

    @property
    def outputs(self) -> Axes:
        """Hidden states, [batch, sequence, hidden_size]."""
        return {"last_hidden_state": {0: "batch", 1: "sequence"}}

    def generate_dummy_inputs(  # type: ignore[override]
        self, preprocessor: Any, batch_size: int = -1, **named: Any
    ) -> Mapping[str, Any]:
        """Make prompts that begin with the placeholders of an image; see `OnnxConfig`."""
        import torch

        tokens = super().generate_dummy_inputs(preprocessor, batch_size, **{**named, "framework": "pt"})
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        placeholders = torch.full((len(ids), self._count), self._token)
        return {
            "input_ids": torch.cat([placeholders, ids], dim=1),
            "attention_mask": torch.cat([torch.ones_like(placeholders), mask], dim=1),
            **self._images.generate_dummy_inputs(preprocessor, len(ids)),
        }

    def _component(self, preprocessor: Any) -> Any:
        return getattr(preprocessor, "tokenizer", None) or preprocessor

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the image encoder, and the text encoder on embeddings with its features."""
        encoder = model_of(forward).get_encoder()
        features = self._features(forward, {name: arguments[name] for name in self._images.inputs}).flatten(0, 1)
        embeds = encoder.get_input_embeddings()(arguments["input_ids"])
        embeds = with_features(embeds, arguments["input_ids"] == self._token, features)
        outputs = encoder(inputs_embeds=embeds, attention_mask=arguments["attention_mask"], return_dict=True)
        return {"last_hidden_state": outputs.last_hidden_state}

    def _features(self, forward: Any, images: Mapping[str, Any]) -> torch.Tensor:
        """Return the features of each image, [batch, features, hidden_size]."""
        features: torch.Tensor = self._images.run(forward, images)["image_features"]
        return features.reshape(images["pixel_values"].shape[0], -1, features.shape[-1])

    @staticmethod
    def fits(model: PreTrainedModel) -> bool:
        """Return whether a model has such an encoder."""
        has_images = method_of(model, "get_image_features") is not None
        return has_images and placeholder_token_id(model.config, "image") is not None


def _decoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """Return the innermost decoder: Florence-2's own is a model of BART, whose embeddings its decoder doesn't call."""
    decoder = model.get_decoder()
    return decoder if decoder is model or not hasattr(decoder, "get_decoder") else _decoder_of(decoder)


class EmbedsEncoderOnnxConfig(EmbedsOnnxConfig):
    """Describe the encoder on embeddings of the prompt and its images, [batch, sequence, hidden_size]."""

    @property
    def inputs(self) -> Axes:
        """Embeddings and their mask, [batch, sequence]."""
        return {name: super(EmbedsEncoderOnnxConfig, self).inputs[name] for name in _EMBEDDED}

    def generate_dummy_inputs(self, *arguments: Any, **named: Any) -> Mapping[str, Any]:  # type: ignore[override]
        """Make embeddings; see `OnnxConfig`."""
        inputs = super().generate_dummy_inputs(*arguments, **named)
        return {name: inputs[name] for name in _EMBEDDED}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the text encoder."""
        outputs = model_of(forward).get_encoder()(**arguments, return_dict=True)
        return {"last_hidden_state": outputs.last_hidden_state}


_EMBEDDED = (EMBEDS, "attention_mask")


def split_image_text(
    model: PreTrainedModel, encoder: Component, decoder: Component
) -> tuple[Component, Component, Component, Component]:
    """Return the graphs of such a model with the encoder of images and the token embeddings apart.

    Args:
        model: the encoder-decoder.
        encoder: its encoder of a prompt and an image.
        decoder: its decoder.

    Raises:
        UnsupportedError: encoder and decoder don't share their embeddings.
    """
    preprocessor = encoder.preprocessor
    weight = model.get_encoder().get_input_embeddings().weight
    if weight is not _decoder_of(model).get_input_embeddings().weight:
        raise UnsupportedError(
            f"{type(model).__name__} has embeddings of the encoder's tokens and others of the decoder's, and "
            "embed_tokens.onnx would be one of them: leave out --split-encoders"
        )
    size = int(weight.shape[1])
    images = ModalityEncoderOnnxConfig(model, "vision_encoder", preprocessor)
    return (
        Component("vision_encoder", model, images, preprocessor),
        Component("embed_tokens", model, TokenEmbeddingOnnxConfig(encoder.config), preprocessor),
        replace(encoder, config=EmbedsEncoderOnnxConfig(encoder.config, size)),
        replace(decoder, config=EmbedsOnnxConfig(decoder.config, size)),
    )


def with_features(embeds: torch.Tensor, is_image: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Return embeddings in which image features, in order, replace those of placeholder tokens.

    Args:
        embeds: [batch, sequence, hidden_size].
        is_image: which tokens are placeholders, [batch, sequence].
        features: [placeholder tokens, hidden_size].
    """
    import torch

    index = is_image.flatten().cumsum(0).reshape(is_image.shape) - 1  # of the feature in a placeholder's place
    placed = features[index.clamp(0, features.shape[0] - 1)].to(embeds.dtype)
    return torch.where(is_image[..., None], placed, embeds)


class ImageTextDecoderOnnxConfig(Seq2SeqDecoderOnnxConfig):
    """Describe the decoder for such an encoder."""

    def __init__(self, model: PreTrainedModel, encoder: OnnxConfig, preprocessor: Any) -> None:
        self._encoder = encoder
        super().__init__(model, encoder, preprocessor)
        del self._encoder

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the model on its encoder's hidden states; see `Seq2SeqDecoderOnnxConfig`.

        Embeddings of tokens replace what the decoder's embedding layer returns: Florence-2 makes token ids of its own
        if it gets none, also beside `decoder_inputs_embeds` (Transformers 5.23 and 5.24; no issue is known).
        """
        import torch

        if EMBEDS not in arguments:
            return super().run(forward, arguments)
        embeds, layer = arguments[EMBEDS], _decoder_of(model_of(forward)).get_input_embeddings()
        ids = torch.zeros(embeds.shape[:2], dtype=torch.int64, device=embeds.device)
        others = {name: value for name, value in arguments.items() if name != EMBEDS}
        with patching(Replacement(layer, "forward", lambda _: embeds)):
            return super().run(forward, {"input_ids": ids, **others})

    def _encoder_of(self, model: PreTrainedModel) -> Any:
        from transformers.modeling_outputs import BaseModelOutput

        def encode(*, return_dict: bool, **inputs: Any) -> BaseModelOutput:
            return BaseModelOutput(**self._encoder.run(model, inputs))

        return encode
