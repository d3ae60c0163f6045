"""Apertus 1.5 (Transformers 5.24): codes of images and audio in the tiny vocabulary, one image or clip at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.description.multimodal import ImageSizesEncoderOnnxConfig, encoded

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from onnxport.description.preprocessor import Preprocessor


class Apertus15ImageEncoderOnnxConfig(ImageSizesEncoderOnnxConfig):
    """Describe the encoder, whose method crops images in a loop over the values of `image_sizes`."""

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Embed the codes of the image; the original is run with `image_sizes`."""
        import torch

        if not torch.compiler.is_exporting():
            return super().run(forward, arguments)
        model = model_of(forward)
        codes = model.base_model.vision_tokenizer.encode(arguments[self._input]).image_tokens
        return {self._output: model.get_input_embeddings()(codes.flatten() + model.config.image_token_offset)}


class Apertus15AudioEncoderOnnxConfig(ImageSizesEncoderOnnxConfig):
    """Describe the encoder of one clip of audio: its method crops clips in a loop over the lengths in a mask."""

    @property
    def inputs(self) -> Axes:
        """The clip, [1, 1, samples]."""
        return {self._input: {2: "audio_sequence"}}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Embed the codes of the clip; the original is run with a mask."""
        import torch

        model, clip = model_of(forward), arguments[self._input]
        if not torch.compiler.is_exporting():
            mask = torch.ones(1, clip.shape[-1], dtype=torch.int64)
            features = encoded(model, self.method_of(model), {self._input: clip, "padding_mask": mask})
            return {self._output: torch.cat(list(features))}
        codes = model.base_model.audio_tokenizer.encode(clip, return_dict=True).audio_codes
        return {self._output: model.get_input_embeddings()(codes.flatten() + model.config.audio_token_offset)}


def _image_encoder(model: PreTrainedModel, preprocessor: Preprocessor) -> OnnxConfig:
    return Apertus15ImageEncoderOnnxConfig(model, "vision_encoder", preprocessor)


def _audio_encoder(model: PreTrainedModel, preprocessor: Preprocessor) -> OnnxConfig:
    return Apertus15AudioEncoderOnnxConfig(model, "audio_encoder", preprocessor)


ARCHITECTURES = (
    Architecture(
        ("apertus1p5",),
        encoders={"vision_encoder": _image_encoder, "audio_encoder": _audio_encoder},
        tiny=Tiny(
            fields={
                "vision_config": {"...": 0, "codebook_size": 16, "base_channels": 32},
                "audio_config": {"...": 0, "codebook_size": 16},
                "image_token_offset": 64,
                "audio_token_offset": 80,
            }
        ),
    ),
)
