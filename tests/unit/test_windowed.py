"""Audio encoders with windows of equal length return the same embeddings as in Transformers."""

from __future__ import annotations

from types import MethodType
from typing import Any

import pytest
import torch
from torch import nn
from transformers.models.qwen2_5_omni import configuration_qwen2_5_omni as omni_config
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as omni
from transformers.models.qwen3_asr import modeling_qwen3_asr as asr
from transformers.models.qwen3_asr.configuration_qwen3_asr import Qwen3ASREncoderConfig
from transformers.models.qwen3_omni_moe import configuration_qwen3_omni_moe as moe_config
from transformers.models.qwen3_omni_moe import modeling_qwen3_omni_moe as moe

from onnxport.architectures.qwen_omni import WindowedAudioEncoderOnnxConfig

_SIZES = {
    **{"num_mel_bins": 8, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 16, "d_model": 16},
    **{"output_dim": 12, "max_source_positions": 64},
}


class _Model(nn.Module):
    """A substitute for the model with the encoder."""

    def __init__(self, tower: Any, method: Any) -> None:
        super().__init__()
        self.audio_tower, self.config = tower, tower.config
        self.get_audio_features = MethodType(method, self)


def _asr() -> Any:
    sizes = {**_SIZES, "downsample_hidden_size": 4, "n_window": 50, "n_window_infer": 200}
    return asr.Qwen3ASREncoder(Qwen3ASREncoderConfig(**sizes))


def _omni() -> Any:
    tower = omni.Qwen2_5OmniAudioEncoder(omni_config.Qwen2_5OmniAudioEncoderConfig(**_SIZES, n_window=10))
    return _Model(tower, omni.Qwen2_5OmniThinkerModel.get_audio_features)


def _moe() -> Any:
    sizes = {**_SIZES, "downsample_hidden_size": 4, "n_window": 50, "n_window_infer": 200}
    tower = moe.Qwen3OmniMoeAudioEncoder(moe_config.Qwen3OmniMoeAudioEncoderConfig(**sizes))
    return _Model(tower, moe.Qwen3OmniMoeThinkerModel.get_audio_features)


@pytest.mark.parametrize("make", [_asr, _omni, _moe])
def test_padded_windows_return_what_packed_windows_return(make: Any) -> None:
    torch.manual_seed(0)
    model = make().eval()
    config = WindowedAudioEncoderOnnxConfig(model)
    (_, mask_name), (name,) = config.inputs, config.outputs
    frames = 6 * config._window
    features, mask = torch.randn(2, 8, frames), torch.ones(2, frames, dtype=torch.int64)
    mask[1, frames - 33 :] = 0
    with torch.no_grad():
        expected = config.run(model, {"input_features": features, mask_name: mask})[name]
        torch.testing.assert_close(config._encode_full_windows(model, features, mask), expected, atol=1e-5, rtol=1e-4)
