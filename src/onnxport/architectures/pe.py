"""Perception Encoder: settings of their tiny models, and what their code doesn't do in a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from transformers.models.pe_audio_video.modeling_pe_audio_video import PeAudioVideoEncoderEmbedder


def _aligned_by_index(_: object) -> Callable[..., torch.Tensor]:
    """Look up the frame of each step of the audio, as nearest interpolation does from its length to the audio's."""

    def align(
        self: PeAudioVideoEncoderEmbedder,
        video_hidden_state: torch.Tensor,
        audio_hidden_state: torch.Tensor,
        padding_mask_videos: torch.Tensor | None = None,
        padding_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        import torch

        batch, frames, _ = video_hidden_state.shape
        steps = audio_hidden_state.shape[1]
        of_frames, of_steps = (
            video_hidden_state.new_full((batch,), size)
            if mask is None
            else mask.sum(dim=-1).to(video_hidden_state.dtype)
            for mask, size in ((padding_mask_videos, frames), (padding_mask, steps))
        )
        equal = video_hidden_state.new_full((), steps) == frames
        whole = equal | (of_steps == frames).all() | (of_frames == steps).all()  # then masks are ignored
        of_frames, of_steps = torch.where(whole, frames, of_frames), torch.where(whole, steps, of_steps)
        step = torch.arange(steps, device=of_steps.device, dtype=of_steps.dtype)
        frame = (step * (of_frames / of_steps.clamp(min=1))[:, None]).floor()
        frame = torch.minimum(frame, of_frames[:, None] - 1).clamp(min=0).long()
        kept = (step < of_steps[:, None]) & (of_frames[:, None] > 0)
        aligned = video_hidden_state.gather(1, frame[..., None].expand(-1, -1, video_hidden_state.shape[2]))
        return torch.where(kept[..., None], aligned, torch.zeros_like(aligned))

    return align


def _in_the_type_of_its_input(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return original(self, x, *args, **kwargs).to(x.dtype)

    return forward


def _group_norm(model_type: str, prefix: str) -> Patch:
    """Return the patch of the normalization of a model type, [batch, channels, time]."""
    return Patch(
        f"transformers.models.{model_type}.modeling_{model_type}:{prefix}MaskedGroupNorm.forward",
        _in_the_type_of_its_input,
        "Transformers' exporter replaces torch.masked.mean and torch.masked.var by code that returns float32, also of "
        "16 bits, so that the convolution that follows has two types",
        "none: not reported yet",
        "Transformers' exporter keeps the type of torch.masked.mean",
    )


ARCHITECTURES = (
    Architecture(
        ("pe_audio_video",),
        patches=(
            Patch(
                "transformers.models.pe_audio_video.modeling_pe_audio_video:"
                "PeAudioVideoEncoderEmbedder._align_video_hidden_state",
                _aligned_by_index,
                "a loop interpolates each video to a length that a mask has",
                EAGER,
                "Transformers aligns a batch of videos at once",
            ),
            _group_norm("pe_audio_video", "PeAudioVideo"),
        ),
    ),
    Architecture(
        ("pe_audio_encoder",),
        patches=(_group_norm("pe_audio", "PeAudio"),),
        tiny=Tiny(feature_extractor="PeAudioFeatureExtractor"),
    ),
    Architecture(
        ("pe_video_encoder",),
        patches=(_group_norm("pe_video", "PeVideo"),),
        tiny=Tiny(fields={"vision_config": {"...": 0, "architecture": "test_vit", "global_pool": "token"}}),
    ),
)
