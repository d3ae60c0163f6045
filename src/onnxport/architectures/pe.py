"""Perception Encoder: settings of their tiny models, and videos that are aligned with audio without a loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

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
        ),
    ),
    Architecture(("pe_audio_encoder",), tiny=Tiny(feature_extractor="PeAudioFeatureExtractor")),
    Architecture(
        ("pe_video_encoder",),
        tiny=Tiny(fields={"vision_config": {"...": 0, "architecture": "test_vit", "global_pool": "token"}}),
    ),
)
