"""Describe the audio encoder of Qwen2-Audio, where the number of features depends on the audio's length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture
from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.configs._parameters import compute_effective_axis_dimension

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from onnxport.description.preprocessor import Preprocessor


class Qwen2AudioEncoderOnnxConfig(OnnxConfig):
    """Describe an encoder of audio that is padded to a fixed length."""

    @property
    def inputs(self) -> Axes:
        """Features, [batch, mel bins, frames], and a mask of the frames, [batch, frames]."""
        return {"input_features": {0: "batch"}, "feature_attention_mask": {0: "batch"}}

    @property
    def outputs(self) -> Axes:
        """Concatenated features of all audio clips, [features, hidden_size]."""
        return {"audio_features": {}}

    def generate_dummy_inputs(self, preprocessor: Any, batch_size: int = -1, **named: Any) -> Mapping[str, Any]:  # type: ignore[override]
        """Create dummy audio clips of decreasing length."""
        import torch

        audio = self._config.audio_config
        count = compute_effective_axis_dimension(batch_size, self.default_batch_size)
        frames = audio.max_source_positions * 2  # the encoder's second convolution has stride 2
        lengths = frames - torch.arange(count) * 7 % (frames // 2)
        mask = (torch.arange(frames)[None] < lengths[:, None]).long()
        return {"input_features": torch.ones(count, audio.num_mel_bins, frames), "feature_attention_mask": mask}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the encoder on all frames, and drop the features of padding."""
        import torch

        model = model_of(forward).base_model
        features, frame_mask = arguments["input_features"], arguments["feature_attention_mask"]
        encoded, pooled = model.audio_tower._get_feat_extract_output_lengths(frame_mask.sum(-1))
        positions = torch.arange(self._config.audio_config.max_source_positions, device=frame_mask.device)
        is_padding = (positions[None] >= encoded[:, None])[:, None, None]
        mask = torch.zeros(is_padding.shape, dtype=features.dtype, device=frame_mask.device)
        mask = mask.masked_fill(is_padding, torch.finfo(features.dtype).min)
        hidden_states = model.audio_tower(features, attention_mask=mask, return_dict=True).last_hidden_state
        valid = torch.arange(hidden_states.shape[1], device=frame_mask.device)[None] < pooled[:, None]
        return {"audio_features": model.multi_modal_projector(hidden_states)[valid]}


def _audio_encoder(model: PreTrainedModel, _: Preprocessor) -> OnnxConfig:
    return Qwen2AudioEncoderOnnxConfig(model.config)


ARCHITECTURES = (Architecture(("qwen2_audio",), encoders={"audio_encoder": _audio_encoder}),)
