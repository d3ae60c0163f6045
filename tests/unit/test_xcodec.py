"""X-Codec's audio is padded and resampled by sizes, with the original's result."""

from __future__ import annotations

import math

import pytest
import torch
import transformers

from conformance.checkpoints import randomize
from conformance.matrix.shrink import tiny_config
from onnxport.architectures._patches import patches_in
from onnxport.architectures.xcodec import _trimmed_by_sizes
from onnxport.patching.scope import patching


def test_audio_is_padded_where_the_original_pads_it() -> None:
    torch.manual_seed(0)
    model = transformers.XcodecModel(tiny_config("xcodec")).eval()
    randomize(model)
    patches = [patch for patch in patches_in("xcodec") if ".xcodec." in patch.target]
    frames = []
    for samples in (6400, 6719, 6720):  # padded, but the last
        audio = torch.randn(2, 1, samples)
        with torch.no_grad():
            expected = model.encode(audio, return_dict=True).audio_codes
            with patching(*patches):
                found = model.encode(audio, return_dict=True).audio_codes
        assert found.tolist() == expected.tolist()
        frames.append(found.shape[2] - samples // 320)
    assert frames == [0, 1, 0]


@pytest.mark.parametrize(("before", "after"), [(24_000, 16_000), (16_000, 24_000), (44_100, 16_000)])
def test_resampled_audio_has_the_length_of_its_duration(before: int, after: int) -> None:
    gcd, width = math.gcd(before, after), 7
    kernel = torch.randn(after // gcd, 1, 2 * width + before // gcd)
    resample = _trimmed_by_sizes(None)
    for samples in (1, 2, 240, 241):
        resampled = resample(torch.randn(2, 1, samples), before, after, gcd, kernel, width)
        assert resampled.shape == (2, 1, math.ceil(samples * after / before))
