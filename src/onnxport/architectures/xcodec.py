"""X-Codec, and its copy that tokenizes Higgs Audio v2's audio: audio of any length, padded only if it must be.

Both pad audio if its encoder would return another number of frames than the encoder of its meaning, and Higgs Audio's
resamples it with torchaudio.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, Tiny, always
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers.models.xcodec.modeling_xcodec import XcodecModel

_HIGGS = "transformers.models.higgs_audio_v2_tokenizer.modeling_higgs_audio_v2_tokenizer"


class XcodecOnnxConfig(DerivedOnnxConfig):
    """Describe the tokenizer as one graph, traced with audio that it pads, and trims after decoding."""

    def fit_inputs(self, inputs: dict[str, Any]) -> None:
        """Cut samples to one less than a multiple of the hop length; see `DerivedOnnxConfig`."""
        hop, samples = self._config.hop_length, inputs["input_values"]
        inputs["input_values"] = samples[..., : samples.shape[-1] // hop * hop - 1]


def _padded_by_sizes(_: object) -> Callable[..., Any]:
    """Encode audio that is padded by a number of samples which is computed from its length, and is often 0."""

    def encode(
        self: XcodecModel, input_values: torch.Tensor, bandwidth: float | None = None, return_dict: bool | None = None
    ) -> Any:
        import torch

        semantic = self.encoder_semantic(self._extract_semantic_features(input_values).transpose(1, 2))
        frames, samples = semantic.shape[2], input_values.shape[2]
        missing = frames - _num_frames(self._get_conv1d_layers(self.acoustic_encoder), samples)
        count = self.pad * torch.sym_min(missing * missing, 1)  # type: ignore[no-untyped-call]
        most = torch.nn.functional.pad(input_values, (self.pad, self.pad))
        padded = most.narrow(2, self.pad - count, samples + 2 * count)
        acoustic = self.acoustic_encoder(padded)[..., :frames]
        embeddings = self.fc(torch.cat([acoustic, semantic], dim=1).transpose(1, 2)).transpose(1, 2)
        codes = self.quantizer.encode(embeddings, bandwidth or self.config.target_bandwidths[-1]).transpose(0, 1)
        output_class = type(self).__name__.replace("Model", "EncoderOutput")
        return getattr(sys.modules[type(self).__module__], output_class)(codes) if return_dict else codes

    return encode


def _num_frames(layers: Iterable[nn.Conv1d], length: int) -> int:
    """Return how many frames a sequence of convolutions makes; upstream's function specializes the length."""
    for layer in layers:
        (kernel,), (stride,), (dilation,) = layer.kernel_size, layer.stride, layer.dilation
        length = (length + 2 * int(layer.padding[0]) - dilation * (kernel - 1) - 1) // stride + 1
    return length


def _trimmed_by_sizes(_: object) -> Callable[..., torch.Tensor]:
    """Resample audio to a number of samples that is computed from its length."""

    def apply_kernel(  # torchaudio names its parameters so
        waveform: torch.Tensor, orig_freq: int, new_freq: int, gcd: int, kernel: torch.Tensor, width: int
    ) -> torch.Tensor:
        import torch

        before, after = orig_freq // gcd, new_freq // gcd
        samples = waveform.shape[-1]
        padded = torch.nn.functional.pad(waveform.reshape(-1, 1, samples), (width, width + before))
        phases = torch.nn.functional.conv1d(padded, kernel, stride=before)
        resampled = phases.transpose(1, 2).reshape(*waveform.shape[:-1], -1)
        return resampled[..., : (samples * after + before - 1) // before]

    return apply_kernel


def _encode_patch(module: str, class_name: str) -> Patch:
    return Patch(
        f"{module}:{class_name}.encode",
        _padded_by_sizes,
        "whether audio is padded is decided for the length of the example",
        EAGER,
        "Transformers computes the padding from sizes",
    )


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("xcodec",),
        model=always(XcodecOnnxConfig),
        patches=(_encode_patch("transformers.models.xcodec.modeling_xcodec", "XcodecModel"),),
    ),
    Architecture(
        ("higgs_audio_v2_tokenizer",),
        model=always(XcodecOnnxConfig),
        patches=(
            _encode_patch(_HIGGS, "HiggsAudioV2TokenizerModel"),
            Patch(
                f"{_HIGGS}:torchaudio.functional.functional._apply_sinc_resample_kernel",
                _trimmed_by_sizes,
                "the number of samples is computed with a tensor of the example's length",
                EAGER,
                "torchaudio computes the length from sizes",
            ),
        ),
        tiny=Tiny(
            fields={
                "acoustic_model_config": {
                    "...": 0,
                    "encoder_hidden_size": 8,
                    "hidden_size": 256,
                    "downsampling_ratios": [8, 5, 4, 2, 3],
                    "upsampling_ratios": [8, 5, 4, 2, 3],
                }
            },
            feature_extractor_arguments={"sampling_rate": 24000, "hop_length": 960},
        ),
    ),
)
