"""Granite Speech: the mask of its features, which the processor returns, and attention in blocks of frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture
from onnxport.configs._base import Axes, OnnxConfig
from onnxport.description.multimodal import ModalityEncoderOnnxConfig
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from onnxport.description.preprocessor import Preprocessor

_MASK = "input_features_mask"


class MaskedFeaturesEncoderOnnxConfig(ModalityEncoderOnnxConfig):
    """Describe an audio encoder, and a mask of the features that it returns."""

    @property
    def inputs(self) -> Axes:
        """Frames, [batch, frames, mel bins], and the mask of their features, [batch, features]."""
        return {**super().inputs, _MASK: {0: "batch", 1: "num_features"}}

    @property
    def outputs(self) -> Axes:
        """Features of all audio clips without those of padding, [features, hidden_size]."""
        return {name: {} for name in super().outputs}

    def generate_dummy_inputs(  # type: ignore[override]
        self, preprocessor: Preprocessor, *arguments: Any, **named: Any
    ) -> Mapping[str, Any]:
        """Make audio clips, each with a feature less than the one before; see `OnnxConfig`."""
        import torch

        inputs = dict(super().generate_dummy_inputs(preprocessor, *arguments, **named))
        batch, frames = inputs[self._input].shape[:2]
        windows = -(-frames // self._config.window_size)
        count = windows * (self._config.window_size // self._config.downsample_rate)
        return {**inputs, _MASK: torch.arange(count) < count - torch.arange(batch)[:, None]}

    def run(self, forward: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Run the encoder and the projector, and drop the features of padding."""
        others = {name: value for name, value in arguments.items() if name != _MASK}
        return {name: features[arguments[_MASK]] for name, features in super().run(forward, others).items()}


def _audio_encoder(model: PreTrainedModel, preprocessor: Preprocessor) -> OnnxConfig:
    return MaskedFeaturesEncoderOnnxConfig(model, "audio_encoder", preprocessor)


def _any_number_of_frames(_: object) -> Callable[..., torch.Tensor]:
    """Return a forward for the attention, which takes [batch, frames, hidden_size], whether or not blocks are full."""

    def forward(self: nn.Module, hidden_states: torch.Tensor, attention_dists: torch.Tensor) -> torch.Tensor:
        import torch
        from torch.nn import functional

        module: Any = self
        batch, frames, _ = hidden_states.shape
        size = module.context_size
        blocks = (frames + size - 1) // size
        states = functional.pad(module.pre_norm(hidden_states), (0, 0, 0, blocks * size - frames))
        projected = (module.to_q(states), *module.to_kv(states).chunk(2, dim=-1))
        shape = (batch * blocks, size, module.num_heads, module.dim_head)
        query, key, value = (states.reshape(shape).transpose(1, 2) for states in projected)
        bias = torch.einsum("bhqd,qkd->bhqk", query, module.rel_pos_emb(attention_dists)) * module.scale
        is_padding = (torch.arange(blocks * size, device=states.device) >= frames).reshape(blocks, size)
        bias = bias.masked_fill(is_padding.repeat(batch, 1)[:, None, None, :], -torch.finfo(bias.dtype).max)
        attended = functional.scaled_dot_product_attention(query, key, value, bias, scale=module.scale)
        attended = attended.transpose(1, 2).reshape(batch, blocks * size, -1)
        return module.dropout(module.to_out(attended[:, :frames]))

    return forward


def _patch(name: str, prefix: str) -> Patch:
    return Patch(
        f"transformers.models.{name}.modeling_{name}:{prefix}ConformerAttention.forward",
        _any_number_of_frames,
        "frames that fill all blocks take a branch without padding, and a graph has one branch",
        EAGER,
        "Transformers pads by the same operations for any number of frames",
    )


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("granite_speech", "granite_speech_plus"),
        encoders={"audio_encoder": _audio_encoder},
        patches=(_patch("granite_speech", "GraniteSpeech"), _patch("granite_speech_plus", "GraniteSpeechPlus")),
    ),
)
