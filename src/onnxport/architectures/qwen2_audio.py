"""Describe the audio encoder of Qwen2-Audio: the number of placeholder tokens follows from the audio's length."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture
from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.configs._parameters import compute_effective_axis_dimension

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from onnxport.description.preprocessor import Preprocessor


class Qwen2AudioEncoderOnnxConfig(OnnxConfig):
    """Describe the encoder of audio inputs that are padded to one length."""

    @property
    def inputs(self) -> Axes:
        """Audio features, [batch, mel bins, frames], and mask of the frames that aren't padding, [batch, frames]."""
        return {"input_features": {0: "batch"}, "feature_attention_mask": {0: "batch"}}

    @property
    def outputs(self) -> Axes:
        """Features of all audio inputs, concatenated, [placeholder tokens, hidden size]."""
        return {"audio_features": {}}

    def generate_dummy_inputs(
        self, preprocessor: Preprocessor, batch_size: int = -1, **named: Any
    ) -> Mapping[str, Any]:  # type: ignore[override]
        """Make audio inputs of decreasing length."""
        import torch

        audio = self._config.audio_config
        count = compute_effective_axis_dimension(batch_size, self.default_batch_size)
        frames = audio.max_source_positions * 2  # the encoder's second convolution has a stride of two
        lengths = frames - torch.arange(count) * 7 % (frames // 2)
        mask = (torch.arange(frames)[None] < lengths[:, None]).long()
        return {"input_features": torch.ones(count, audio.num_mel_bins, frames), "feature_attention_mask": mask}

    def run(self, forward: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Run the encoder on all frames, and drop the features of padding."""
        import torch

        model = model_of(forward).model
        features, frame_mask = arguments["input_features"], arguments["feature_attention_mask"]
        encoder_lengths, lengths = model.audio_tower._get_feat_extract_output_lengths(frame_mask.sum(-1))
        positions = torch.arange(self._config.audio_config.max_source_positions, device=frame_mask.device)
        masked = (positions[None] >= encoder_lengths[:, None])[:, None, None]
        mask = torch.zeros(masked.shape, dtype=features.dtype, device=frame_mask.device)
        mask = mask.masked_fill(masked, torch.finfo(features.dtype).min)
        hidden_states = model.audio_tower(features, attention_mask=mask, return_dict=True).last_hidden_state
        valid = torch.arange(hidden_states.shape[1], device=frame_mask.device)[None] < lengths[:, None]
        return {"audio_features": model.multi_modal_projector(hidden_states)[valid]}


def _audio_encoder(model: PreTrainedModel, _: Preprocessor) -> OnnxConfig:
    return Qwen2AudioEncoderOnnxConfig(model.config)


ARCHITECTURES = (Architecture(("qwen2_audio",), encoders={"audio_encoder": _audio_encoder}),)
