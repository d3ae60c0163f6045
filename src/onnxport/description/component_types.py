"""Describe the components of an export, for each type of model that can be detected from its modules and methods.

An architecture's file calls these functions with custom descriptions of the components that require them.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from onnxport.description import packed_patches
from onnxport.description.completion import completed
from onnxport.description.components import MODALITY_ENCODERS, Component
from onnxport.description.encoder_decoder import (
    CrossAttentionDecoderOnnxConfig,
    EncoderOnnxConfig,
    InnerEncoderOnnxConfig,
    Seq2SeqDecoderOnnxConfig,
)
from onnxport.description.forward import forward_parameters
from onnxport.description.image_patches import ImagePatchesEncoderOnnxConfig
from onnxport.description.image_text_encoder import ImageTextDecoderOnnxConfig, ImageTextEncoderOnnxConfig
from onnxport.description.multimodal import (
    EmbeddingOnnxConfig,
    EmbedsDecoderOnnxConfig,
    ImageSizesEncoderOnnxConfig,
    ModalityEncoderOnnxConfig,
    has_audio,
    language_model,
    method_of,
)
from onnxport.description.per_layer_inputs import (
    PerLayerDecoderOnnxConfig,
    PerLayerEmbeddingOnnxConfig,
    takes_per_layer_inputs,
)
from onnxport.description.tasks import canonical_task
from onnxport.errors import UnsupportedError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from onnxport.configs import OnnxConfig
    from onnxport.description.preprocessor import Preprocessor
    from onnxport.description.tasks import Task

logger = logging.getLogger(__name__)

DescribeEncoder = Callable[["PreTrainedModel", "Preprocessor"], "OnnxConfig"]
"""Describes the encoder of one modality, from the multimodal model."""
DescribeDecoder = Callable[["PreTrainedModel", "Preprocessor", bool, bool], "OnnxConfig"]
"""Describes a decoder that takes `inputs_embeds`, from the language model.

The flags: return the logits of the last token only; add the KV cache.
"""


def generates_from_encoder(model: PreTrainedModel, task: Task) -> bool:
    """Return whether a model is an encoder-decoder that is exported for generation, as two graphs."""
    return task.with_past and bool(model.config.is_encoder_decoder) and bool(model.can_generate())


def takes_decoder_tokens(model_class: type) -> bool:
    """Return whether a class is an encoder-decoder whose decoder takes token ids (BART), and not queries (DETR)."""
    return "decoder_input_ids" in inspect.signature(model_class.forward).parameters  # type: ignore[attr-defined]


def encoder_decoder(
    model: PreTrainedModel,
    preprocessor: Preprocessor,
    *,
    encoder: type[EncoderOnnxConfig] = EncoderOnnxConfig,
    decoder: type[Seq2SeqDecoderOnnxConfig] = Seq2SeqDecoderOnnxConfig,
    excluded: Collection[str] = (),
) -> tuple[Component, ...]:
    """Describe an encoder-decoder as an encoder and a decoder with a cache, for generation if it has a head.

    Args:
        model: the encoder-decoder.
        preprocessor: makes the encoder's inputs.
        encoder: class that describes an encoder that is a PreTrainedModel.
        decoder: class that describes the decoder.
        excluded: names of the encoder's parameters that can't be inputs.
    """
    if ImageTextEncoderOnnxConfig.fits(model):
        with_images = ImageTextEncoderOnnxConfig(model, preprocessor)
        return (
            Component("encoder_model", model, with_images, preprocessor),
            Component(
                "decoder_model_merged",
                model,
                ImageTextDecoderOnnxConfig(model, with_images, preprocessor),
                preprocessor,
            ),
        )
    first = _encoder_component(model, preprocessor, encoder, excluded)
    return (
        first,
        Component("decoder_model_merged", model, decoder(model, first.config, preprocessor), preprocessor),
    )


def encoder_alone(model: PreTrainedModel, preprocessor: Preprocessor, *, excluded: Collection[str] = ()) -> Component:
    """Describe the encoder of an encoder-decoder as the single graph.

    Args:
        model: the encoder-decoder.
        preprocessor: makes the encoder's inputs.
        excluded: names of the encoder's parameters that can't be inputs.
    """
    return replace(_encoder_component(model, preprocessor, EncoderOnnxConfig, excluded), name="model")


def _encoder_component(
    model: PreTrainedModel, preprocessor: Preprocessor, encoder: type[EncoderOnnxConfig], excluded: Collection[str]
) -> Component:
    module = model.get_encoder()
    if hasattr(module, "main_input_name"):
        described = completed(
            module, encoder(module, preprocessor), preprocessor, canonical_task("feature-extraction"), excluded
        )
        return Component("encoder_model", module, described, preprocessor)
    return Component("encoder_model", model, InnerEncoderOnnxConfig(model, preprocessor), preprocessor)


def cross_attention(model: PreTrainedModel, preprocessor: Preprocessor) -> tuple[Component, ...]:
    """Describe a vision encoder, and a text decoder that is a separate model with cross-attention to it (BLIP).

    Args:
        model: the model with both; see `CrossAttentionDecoderOnnxConfig.fits`.
        preprocessor: makes `pixel_values`.
    """
    vision_model, text_decoder = model.vision_model, model.text_decoder
    encoder = EncoderOnnxConfig(vision_model, preprocessor)
    decoder = CrossAttentionDecoderOnnxConfig(text_decoder, vision_model, encoder, preprocessor)
    return (
        Component("encoder_model", vision_model, encoder, preprocessor),
        Component("decoder_model_merged", text_decoder, decoder, preprocessor),
    )


def can_be_split(model: PreTrainedModel, encoders: Mapping[str, DescribeEncoder]) -> bool:
    """Return whether a model's encoders can be exported separately from a decoder that takes `inputs_embeds`.

    Args:
        model: the multimodal model.
        encoders: component name to custom description, of encoders that can't be detected.
    """
    return bool(_encoder_names(model, encoders)) and hasattr(model, "get_input_embeddings")


def multimodal(
    model: PreTrainedModel,
    task: Task,
    preprocessor: Preprocessor,
    last_logits: bool = False,
    *,
    encoders: Mapping[str, DescribeEncoder] | None = None,
    decoder: DescribeDecoder | None = None,
) -> tuple[Component, ...]:
    """Describe a model that generates text from images or audio and a prompt.

    Args:
        model: the multimodal model.
        task: the task, with or without past.
        preprocessor: the checkpoint's preprocessor.
        last_logits: whether the decoder returns the logits of the last token only.
        encoders: component name to custom description, of encoders that can't be detected.
        decoder: custom description of the decoder.
    """
    encoders = encoders or {}
    names = _encoder_names(model, encoders)
    if task.name == "image-to-text" and len(names) == len(MODALITY_ENCODERS) and not has_audio(model, preprocessor):
        logger.warning("the checkpoint has no feature extractor: the audio encoder is left out")
        names.remove("audio_encoder")
    describe_decoder, text = decoder or _decoder_type(model), language_model(model)
    embedding = PerLayerEmbeddingOnnxConfig if takes_per_layer_inputs(model) else EmbeddingOnnxConfig
    return (
        *(
            Component(
                name,
                model,
                _completed(model, encoders[name](model, preprocessor), preprocessor, task)
                if name in encoders
                else _encoder(model, name, preprocessor, task),
                preprocessor,
            )
            for name in names
        ),
        Component("embed_tokens", model, embedding(model.config), preprocessor),
        Component(
            "decoder_model_merged",
            text,
            describe_decoder(text, preprocessor, last_logits, task.with_past),
            preprocessor,
        ),
    )


def _encoder_names(model: PreTrainedModel, encoders: Mapping[str, DescribeEncoder]) -> list[str]:
    return [name for name in MODALITY_ENCODERS if name in encoders or _has_encoder(model, name)]


def _has_encoder(model: PreTrainedModel, component: str) -> bool:
    """Return whether a model has an encoder; the configuration may omit one that the class supports."""
    field = component.replace("_encoder", "_config")
    has_method = method_of(model, MODALITY_ENCODERS[component].method) is not None
    return has_method and getattr(model.config, field, True) is not None


def _decoder_type(model: PreTrainedModel) -> type[EmbedsDecoderOnnxConfig]:
    config = model.config
    if takes_per_layer_inputs(model):
        return PerLayerDecoderOnnxConfig
    if not hasattr(config, "vision_config") or not packed_patches.uses_mrope(config):
        return EmbedsDecoderOnnxConfig
    if packed_patches.has_deepstack(config):
        return packed_patches.DeepstackMropeDecoderOnnxConfig
    return packed_patches.MropeDecoderOnnxConfig


def _encoder(model: PreTrainedModel, component: str, preprocessor: Preprocessor, task: Task) -> OnnxConfig:
    if component == "vision_encoder" and packed_patches.takes_packed_patches(model):
        if packed_patches.has_deepstack(model.config):
            return packed_patches.DeepstackPatchEncoderOnnxConfig(model)
        return packed_patches.PackedPatchEncoderOnnxConfig(model)
    if ImageSizesEncoderOnnxConfig.fits(model, component):
        return ImageSizesEncoderOnnxConfig(model, component, preprocessor)
    try:
        encoder = ModalityEncoderOnnxConfig(model, component, preprocessor)
    except UnsupportedError:
        if not ImagePatchesEncoderOnnxConfig.fits(model, component):
            raise
        return ImagePatchesEncoderOnnxConfig(model, component, preprocessor)
    return _completed(model, encoder, preprocessor, task)


def _completed(model: PreTrainedModel, encoder: OnnxConfig, preprocessor: Preprocessor, task: Task) -> OnnxConfig:
    """Return the description of an encoder with the further inputs of the method that encodes."""
    if not isinstance(encoder, ModalityEncoderOnnxConfig):
        return encoder
    taken = inspect.signature(encoder.method_of(model)).parameters
    parameters = forward_parameters(type(model))  # type: ignore[arg-type]  # classes are hashable
    return completed(model, encoder, preprocessor, task, [name for name in parameters if name not in taken])
