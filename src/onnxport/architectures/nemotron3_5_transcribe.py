"""Describe Nemotron 3.5 Transcribe, whose encoder normalizes audio features over time.

The features of the constant dummy audio don't vary, so normalization would divide by rounding errors. Dummy features
are therefore zeros, which validation replaces with random values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, Tiny, always
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.multimodal import ModalityEncoderOnnxConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from onnxport.configs import OnnxConfig
    from onnxport.description.preprocessor import Preprocessor

_FRAME_INPUTS = ("input_features", "input_features_mask", "attention_mask")


def _zero_features(inputs: dict[str, Any]) -> None:
    if "input_features" in inputs:
        inputs["input_features"] = inputs["input_features"].new_zeros(inputs["input_features"].shape)


class NemoSpeechLmOnnxConfig(DerivedOnnxConfig):
    """Describe the full model as a single graph."""

    def fit_inputs(self, inputs: dict[str, Any]) -> None:
        """Set the features to zero."""
        _zero_features(inputs)


class NemoSpeechLmAudioEncoderOnnxConfig(ModalityEncoderOnnxConfig):
    """Describe the audio encoder for a text decoder."""

    def fit_inputs(self, inputs: dict[str, Any]) -> None:
        """Set the features to zero."""
        _zero_features(inputs)


class NemotronAudioOnnxConfig(DerivedOnnxConfig):
    """Describe the audio encoder alone, which stacks frames in groups and only takes full groups."""

    def fit_inputs(self, inputs: dict[str, Any]) -> None:
        """Truncate the features to full groups of frames, and set them to zero."""
        if "input_features" not in self._parameters:
            return
        factor = self._config.subsampling_factor
        frames = inputs["input_features"].shape[1] // factor * factor
        for name in _FRAME_INPUTS:
            if name in inputs:
                inputs[name] = inputs[name][:, :frames].contiguous()
        _zero_features(inputs)


def _audio_encoder(model: PreTrainedModel, preprocessor: Preprocessor) -> OnnxConfig:
    return NemoSpeechLmAudioEncoderOnnxConfig(model, "audio_encoder", preprocessor)


_TINY = Tiny(feature_extractor="NemotronAsrStreamingFeatureExtractor")
ARCHITECTURES = (
    Architecture(("nemo_speechlm",), model=always(NemoSpeechLmOnnxConfig), encoders={"audio_encoder": _audio_encoder}),
    Architecture(("nemotron3_5_transcribe_audio",), model=always(NemotronAudioOnnxConfig), tiny=_TINY),
    Architecture(("nemotron3_5_transcribe_asr_audio",), tiny=_TINY),
)
