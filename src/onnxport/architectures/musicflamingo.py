"""Describe Music Flamingo's audio encoder, which takes the prompt to find out which windows continue an audio clip."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture
from onnxport.configs._base import Axes, OnnxConfig
from onnxport.description.multimodal import ModalityEncoderOnnxConfig
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel
    from transformers.models.musicflamingo.modeling_musicflamingo import MusicFlamingoModel

    from onnxport.description.preprocessor import Preprocessor

_MODULE = "transformers.models.musicflamingo.modeling_musicflamingo"
_PROMPTS = 2


class MusicFlamingoEncoderOnnxConfig(ModalityEncoderOnnxConfig):
    """Describe the encoder of windows of audio; the run of placeholder tokens of a clip covers all its windows."""

    @property
    def inputs(self) -> Axes:
        """The windows, a mask of their frames, and the prompts, [prompts, sequence]."""
        return {**super().inputs, "input_ids": {0: "prompts", 1: "sequence"}}

    def fit_inputs(self, inputs: dict[str, Any]) -> None:
        """Add `input_ids`; see `ModalityEncoderOnnxConfig`."""
        import torch

        inputs["input_ids"] = torch.zeros(_PROMPTS, 1, dtype=torch.int64)

    def generate_dummy_inputs(self, *arguments: Any, **named: Any) -> Mapping[str, Any]:  # type: ignore[override]
        """Make windows, each a clip of its own: the first prompt has the first of them, the second all others."""
        import torch

        inputs = dict(super().generate_dummy_inputs(*arguments, **named))
        mask = inputs["input_features_mask"]
        tokens = torch.zeros(_PROMPTS, mask.shape[1], dtype=torch.int64)
        position = 1
        for index, count in enumerate(_feature_counts(mask).tolist()):
            tokens[min(index, 1), position : position + count] = self._config.audio_token_id
            position = 1 if index == 0 else position + count + 1
        return {**inputs, "input_ids": tokens}


def _feature_counts(mask: torch.Tensor) -> torch.Tensor:
    """Return the number of features of each window, after a convolution and a pooling layer of stride 2."""
    return ((mask.sum(-1).long() - 1) // 2 - 1) // 2 + 1


def _timestamps_by_rank(_: object) -> Callable[..., torch.Tensor]:
    """Find the clip of each window by the rank of its first placeholder token, without data-dependent sizes."""

    def build_audio_timestamps(
        self: MusicFlamingoModel, input_ids: torch.Tensor, post_lengths: torch.Tensor, max_post_length: int
    ) -> torch.Tensor:
        import torch

        is_audio = input_ids == self.config.audio_token_id
        follows = torch.nn.functional.pad(is_audio[:, :-1].long(), (1, 0))
        clip = (is_audio.long() * (1 - follows)).flatten().cumsum(0)
        rank = is_audio.flatten().long().cumsum(0) - 1
        first = post_lengths.long().cumsum(0) - post_lengths.long()
        is_first = (rank[None] == first[:, None]) & is_audio.flatten()[None]
        clips = (is_first.long() * clip[None]).sum(-1)
        window = torch.tril((clips[:, None] == clips[None]).long(), -1).sum(-1)
        step = self.config.audio_frame_step * 4  # a convolution and a pooling layer of stride 2
        offsets = torch.arange(max_post_length, device=post_lengths.device, dtype=torch.float32) * step
        return window[:, None] * max_post_length * step + offsets

    return build_audio_timestamps


def _audio_encoder(model: PreTrainedModel, preprocessor: Preprocessor) -> OnnxConfig:
    return MusicFlamingoEncoderOnnxConfig(model, "audio_encoder", preprocessor)


ARCHITECTURES = (
    Architecture(
        ("musicflamingo",),
        encoders={"audio_encoder": _audio_encoder},
        patches=(
            Patch(
                f"{_MODULE}:MusicFlamingoModel._build_audio_timestamps",
                _timestamps_by_rank,
                "the number of clips is data-dependent, and searchsorted has no ONNX operator",
                EAGER,
                "torch.onnx exports searchsorted",
                without_values=True,
            ),
        ),
    ),
)
