"""Describe the audio encoder of Qwen2-Audio, whose sounds take as many places in the text as they are long."""

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
    """Describe what encodes sounds that are filled up to one length."""

    @property
    def inputs(self) -> Axes:
        """Features, [sounds, values of each, frames], and which frames are the sound's own, [sounds, frames]."""
        return {"input_features": {0: "batch"}, "feature_attention_mask": {0: "batch"}}

    @property
    def outputs(self) -> Axes:
        """The states of all sounds after each other, [places, size]."""
        return {"audio_features": {}}

    def generate_dummy_inputs(self, preprocessor: Any, batch_size: int = -1, **named: Any) -> Mapping[str, Any]:  # type: ignore[override]
        """Make sounds, each shorter than the one before."""
        import torch

        heard = self._config.audio_config
        count = compute_effective_axis_dimension(batch_size, self.default_batch_size)
        frames = heard.max_source_positions * 2  # of which the encoder's second convolution makes one
        lengths = frames - torch.arange(count) * 7 % (frames // 2)
        mask = (torch.arange(frames)[None] < lengths[:, None]).long()
        return {"input_features": torch.ones(count, heard.num_mel_bins, frames), "feature_attention_mask": mask}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the encoder on all frames, and leave out what it says of those that only fill up."""
        import torch

        model = model_of(forward).model
        features, own = arguments["input_features"], arguments["feature_attention_mask"]
        heard, said = model.audio_tower._get_feat_extract_output_lengths(own.sum(-1))
        positions = torch.arange(self._config.audio_config.max_source_positions, device=own.device)
        hidden = (positions[None] >= heard[:, None])[:, None, None]
        mask = torch.zeros(hidden.shape, dtype=features.dtype, device=own.device)
        mask = mask.masked_fill(hidden, torch.finfo(features.dtype).min)
        states = model.audio_tower(features, attention_mask=mask, return_dict=True).last_hidden_state
        places = torch.arange(states.shape[1], device=own.device)[None] < said[:, None]
        return {"audio_features": model.multi_modal_projector(states)[places]}


def _audio_encoder(model: PreTrainedModel, _: Preprocessor) -> OnnxConfig:
    return Qwen2AudioEncoderOnnxConfig(model.config)


ARCHITECTURES = (Architecture(("qwen2_audio",), encoders={"audio_encoder": _audio_encoder}),)
