"""Describe a vision encoder-decoder as 4.37.2 did: two graphs without a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture
from onnxport.configs.decoders import VisionEncoderDecoderOnnxConfig
from onnxport.configs.plain_tokenizer import plain_tokenizer
from onnxport.description.component_types import generates_from_encoder
from onnxport.description.components import Component

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from onnxport.description.preprocessor import Preprocessor
    from onnxport.description.tasks import Task

_MODEL_TYPE = "vision-encoder-decoder"


def _components(
    model: PreTrainedModel, task: Task, preprocessor: Preprocessor, _: bool
) -> tuple[Component, ...] | None:
    if generates_from_encoder(model, task):
        return None
    config = model.config
    onnx_config = VisionEncoderDecoderOnnxConfig(config)
    encoder = onnx_config.get_encoder_config(config.encoder)
    decoder = onnx_config.get_decoder_config(config.encoder, config.decoder, feature="causal-lm")
    image_processor = getattr(preprocessor, "image_processor", preprocessor)
    tokenizer = getattr(preprocessor, "tokenizer", None) or plain_tokenizer(config.decoder)
    return (
        Component("encoder_model", model.encoder, encoder, image_processor),
        Component("decoder_model", model.decoder, decoder, tokenizer),
    )


ARCHITECTURES = (Architecture((_MODEL_TYPE,), components=_components),)
