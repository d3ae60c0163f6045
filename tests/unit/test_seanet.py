"""Convolutions of audio codecs pad any number of samples as the original's, with sizes instead of tensors."""

from __future__ import annotations

import pytest
import torch
from transformers import EncodecConfig
from transformers.models.encodec.modeling_encodec import EncodecConv1d

from onnxport.architectures._seanet import _pad_by_sizes


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(7, 1, 1), (3, 1, 2), (8, 4, 1), (4, 2, 1), (5, 3, 1)])
def test_samples_are_reflected(causal: bool, kernel: int, stride: int, dilation: int) -> None:
    convolution = EncodecConv1d(EncodecConfig(use_causal_conv=causal), 2, 3, kernel, stride, dilation)
    forward = _pad_by_sizes(EncodecConv1d.forward)
    for length in (1, 2, 5, 6, 7, 8, 19):  # fewer samples than the padding, too
        samples = torch.randn(2, 2, length, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(forward(convolution, samples), convolution(samples))
