"""Describe audio encoders with attention within windows: those of Qwen's Omni models and of Qwen3-ASR.

Transformers splits audio into windows with loops and packs the frames that aren't padding. Here every window keeps all
of its positions, attention is computed from the window index of each position, and padding is dropped at the end.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.configs._parameters import compute_effective_axis_dimension
from onnxport.description._packed_patch_tracing import PackedPatchTracing
from onnxport.description.components import MODALITY_ENCODERS
from onnxport.description.multimodal import method_of, said
from onnxport.patching.patch import Replacement
from onnxport.patching.scope import patching

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from onnxport.description.preprocessor import Preprocessor
    from onnxport.description.tasks import Task

    Length = TypeVar("Length", int, torch.Tensor)

_MAX_FRAMES = 3000
"""Maximum number of frames of dummy inputs: thirty seconds, to which the feature extractors pad audio."""
_COMPONENT = MODALITY_ENCODERS["audio_encoder"]
_MASKS = ("feature_attention_mask", "input_features_mask")


def audio_encoder_of(model: PreTrainedModel) -> PreTrainedModel | None:
    """Return the windowed audio encoder of a model, the model itself or a submodule; None where there is none."""
    encoders = (module for module in model.modules() if hasattr(module, "n_window") and hasattr(module, "layers"))
    return next(encoders, None)


class WindowedAudioEncoderOnnxConfig(OnnxConfig):
    """Describe an encoder of audio in windows.

    Where all audio inputs are shorter than one window, some models return other values than the graph, whose windows
    are padded.

    Args:
        model: the encoder, or the whole model.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model.config, task="default")
        encoder = audio_encoder_of(model)
        assert encoder is not None, "only models with such an encoder are described by this class"
        self._tracing, self._is_whole = PackedPatchTracing(encoder), encoder is not model
        encode_audio = method_of(model, _COMPONENT.method) if self._is_whole else model.forward
        self._mask = next(name for name in _MASKS if name in inspect.signature(encode_audio).parameters)
        self._window, self._bins = 2 * encoder.n_window, encoder.config.num_mel_bins

    @property
    def inputs(self) -> Axes:
        """Audio features, [batch, mel bins, frames], and mask of the frames that aren't padding, [batch, frames]."""
        return {"input_features": {0: "batch"}, self._mask: {0: "batch"}}

    @property
    def outputs(self) -> Axes:
        """Features of all audio inputs, concatenated, [placeholder tokens, hidden size]."""
        return {_COMPONENT.output if self._is_whole else "last_hidden_state": {}}

    def generate_dummy_inputs(
        self, preprocessor: Preprocessor, batch_size: int = -1, **named: Any
    ) -> Mapping[str, Any]:  # type: ignore[override]
        """Make audio inputs of decreasing length."""
        import torch

        count = compute_effective_axis_dimension(batch_size, self.default_batch_size)
        frames = max(_MAX_FRAMES // (2 * self._window), 1) * 2 * self._window
        lengths = frames - torch.arange(count) * 7 % (frames // 2)
        mask = (torch.arange(frames)[None] < lengths[:, None]).long()
        return {"input_features": torch.ones(count, self._bins, frames), self._mask: mask}

    def run(self, forward: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Run the encoder; while it is traced, on windows that all have the same length."""
        import torch

        model, (name,) = model_of(forward), self.outputs
        if torch.compiler.is_exporting():
            return {name: self._traced(forward, arguments["input_features"], arguments[self._mask])}
        if self._is_whole:
            return {name: said(model, method_of(model, _COMPONENT.method), arguments)}
        return {name: model(**arguments, return_dict=True).last_hidden_state}

    def _traced(self, forward: Callable[..., Any], features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the features of all audio inputs, with each window as long as the longest."""
        import torch

        model, batch = model_of(forward), features.shape[0]
        encoder = audio_encoder_of(model)
        assert encoder is not None, "only models with such an encoder are described by this class"
        encode_audio = encoder if self._is_whole else forward
        windows, window_length = features.shape[2] // self._window, _output_length(encoder, self._window)
        lengths = mask.sum(-1)
        rest = lengths % self._window
        valid = lengths // self._window * window_length + torch.where(rest > 0, _output_length(encoder, rest), 0)
        position = torch.arange(windows * window_length, device=mask.device)
        attended = window_length * max(getattr(encoder, "n_window_infer", self._window) // self._window, 1)
        window_index = position[None] // attended
        window_index = window_index + (torch.arange(batch, device=mask.device) * windows * window_length)[:, None]
        window_index = torch.where(position[None] < valid[:, None], window_index, -1).flatten()
        every = torch.arange(batch * windows * window_length, device=mask.device)
        precomputed = {"cu_seqlens": window_index}
        with self._tracing.replaced(None, None), _all_positions(encoder, window_length):
            if hasattr(encoder, "_post_cnn_length"):
                outputs = encode_audio(input_features=features, input_features_mask=mask, **precomputed)
            else:
                masked = features * mask[:, None].to(features.dtype)
                chunks = masked.reshape(batch, self._bins, windows, self._window).transpose(1, 2).flatten(0, 1)
                precomputed |= {"padded_feature": chunks, "chunk_lengths": mask.reshape(-1, self._window).sum(-1)}
                precomputed |= {"valid_indices": every, "pool_indices": every[::2]}
                outputs = encode_audio(input_features=features, feature_lens=lengths, **precomputed)
        hidden_states = outputs.last_hidden_state
        if hasattr(encoder, "avg_pooler"):
            position, valid = position[: windows * window_length // 2], valid // 2
        project = getattr(getattr(model, "model", model), "multi_modal_projector", None)
        projected = hidden_states if project is None or not self._is_whole else project(hidden_states)
        return projected.reshape(batch, -1, projected.shape[-1])[position[None] < valid[:, None]]


def _output_length(encoder: PreTrainedModel, frames: Length) -> Length:
    """Return the number of positions of frames after the convolutions, each of which has a stride of two."""
    for _ in range(3 if hasattr(encoder, "conv2d3") else 1):
        frames = (frames - 1) // 2 + 1
    return frames


@contextmanager
def _all_positions(encoder: PreTrainedModel, window_length: int) -> Iterator[None]:
    """Let an encoder keep every position of every window, and convolve all windows at once, in a block."""
    import torch
    from torch.overrides import TorchFunctionMode

    class AllIndices(TorchFunctionMode):
        """Let `Tensor.nonzero` return every index, with which the encoder drops no padding."""

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is torch.Tensor.nonzero:
                return torch.arange(args[0].numel(), device=args[0].device)[:, None]
            return function(*args, **(kwargs or {}))

    values = {"_post_cnn_length": lambda lengths: torch.full_like(lengths, window_length), "conv_chunksize": 1 << 31}
    values = {name: value for name, value in values.items() if hasattr(encoder, name)}
    with patching(*(Replacement(encoder, name, value) for name, value in values.items())), AllIndices():
        yield


def _audio_encoder(model: PreTrainedModel, _: Preprocessor) -> OnnxConfig:
    return WindowedAudioEncoderOnnxConfig(model)


def _encoder_alone(model: PreTrainedModel, _: Task, __: Preprocessor, ___: bool) -> OnnxConfig:
    return WindowedAudioEncoderOnnxConfig(model)


def _generation_classes(name: str) -> dict[str, str]:
    return {f"{name}ForConditionalGeneration": f"{name}ThinkerForConditionalGeneration"}


ARCHITECTURES = (
    Architecture(("qwen2_5_omni",), generation_classes=_generation_classes("Qwen2_5Omni")),
    Architecture(
        ("qwen3_omni_moe",),
        generation_classes=_generation_classes("Qwen3OmniMoe"),
        tiny=Tiny({"talker_config": {"...": 0, "spatial_merge_size": 2}}),
    ),
    Architecture(("qwen3_omni_moe_talker_text",), tiny=Tiny({"shared_expert_intermediate_size": 64})),
    Architecture(
        ("qwen2_5_omni_thinker", "qwen3_omni_moe_thinker"),
        encoders={"audio_encoder": _audio_encoder},
        tiny=Tiny({"vision_start_token_id": 101, "vision_end_token_id": 102}),
    ),
    Architecture(("qwen3_asr",), encoders={"audio_encoder": _audio_encoder}),
    Architecture(
        ("qwen2_5_omni_audio_encoder", "qwen3_omni_moe_audio_encoder", "qwen3_asr_encoder"), model=_encoder_alone
    ),
)
