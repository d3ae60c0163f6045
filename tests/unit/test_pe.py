"""PE-AV's videos are aligned with audio as in the original, without a loop over the batch."""

from __future__ import annotations

import torch
from transformers.models.pe_audio_video.modeling_pe_audio_video import PeAudioVideoEncoderEmbedder

from onnxport.architectures.pe import _aligned_by_index

BATCH = 3


def mask_of(length: int, generator: torch.Generator) -> torch.Tensor | None:
    """Return a mask of random lengths; often none, or one of equal lengths."""
    kind = int(torch.randint(3, (), generator=generator))
    if kind == 0:
        return None
    lengths = torch.randint(1, length + 1, (1 if kind == 1 else BATCH,), generator=generator)
    return (torch.arange(length) < lengths.expand(BATCH)[:, None]).long()


def test_videos_have_the_length_of_the_audio() -> None:
    align = PeAudioVideoEncoderEmbedder._align_video_hidden_state
    aligned_by_index = _aligned_by_index(align)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        frames, steps = (int(size) for size in torch.randint(1, 20, (2,), generator=generator))
        video, audio = (torch.randn(BATCH, size, 4, generator=generator) for size in (frames, steps))
        masks = mask_of(frames, generator), mask_of(steps, generator)
        expected = align(None, video, audio, *masks)  # type: ignore[arg-type]  # uses no attribute
        torch.testing.assert_close(aligned_by_index(None, video, audio, *masks), expected, rtol=0, atol=0)
