"""Describe Moshi, which takes codes of two audio streams beside the tokens, and fields of its tiny configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture, Tiny, always
from onnxport.description.derived import DerivedOnnxConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SAMPLES = {f"{stream}_input_values": f"the samples of {stream}_audio_codes" for stream in ("user", "moshi")}


class MoshiOnnxConfig(DerivedOnnxConfig):
    """Describe a decoder of tokens and audio codes."""

    def parameters_of(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Return the model's parameters; codes take precedence over the samples that they are computed from."""
        return tuple(name for name in super().parameters_of(model) if name not in _SAMPLES)


ARCHITECTURES = (
    Architecture(
        ("moshi",),
        model=always(MoshiOnnxConfig),
        left_out=_SAMPLES,
        tiny=Tiny(fields={"depth_decoder_config": {"...": 0, "audio_vocab_size": 32}}),
    ),
)
