"""Granite Speech: the mask of its features, which the processor returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture
from onnxport.configs._base import Axes, OnnxConfig
from onnxport.description.multimodal import ModalityEncoderOnnxConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from onnxport.description.preprocessor import Preprocessor

_MASK = "input_features_mask"


class MaskedFeaturesEncoderOnnxConfig(ModalityEncoderOnnxConfig):
    """Describe an audio encoder, and a mask of the features that it returns."""

    @property
    def inputs(self) -> Axes:
        """Frames, [batch, frames, mel bins], and the mask of their features, [batch, features]."""
        return {**super().inputs, _MASK: {0: "batch", 1: "num_features"}}

    @property
    def outputs(self) -> Axes:
        """Features of all audio clips without those of padding, [features, hidden_size]."""
        return {name: {} for name in super().outputs}

    def generate_dummy_inputs(  # type: ignore[override]
        self, preprocessor: Preprocessor, *arguments: Any, **named: Any
    ) -> Mapping[str, Any]:
        """Make audio clips, each with a feature less than the one before; see `OnnxConfig`."""
        import torch

        inputs = dict(super().generate_dummy_inputs(preprocessor, *arguments, **named))
        batch, frames = inputs[self._input].shape[:2]
        windows = -(-frames // self._config.window_size)
        count = windows * (self._config.window_size // self._config.downsample_rate)
        return {**inputs, _MASK: torch.arange(count) < count - torch.arange(batch)[:, None]}

    def run(self, forward: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Run the encoder and the projector, and drop the features of padding."""
        others = {name: value for name, value in arguments.items() if name != _MASK}
        return {name: features[arguments[_MASK]] for name, features in super().run(forward, others).items()}


def _audio_encoder(model: PreTrainedModel, preprocessor: Preprocessor) -> OnnxConfig:
    return MaskedFeaturesEncoderOnnxConfig(model, "audio_encoder", preprocessor)


ARCHITECTURES = (Architecture(("granite_speech", "granite_speech_plus"), encoders={"audio_encoder": _audio_encoder}),)
