"""Describe audio encoders that attend within windows: those of Qwen's Omni models and of Qwen3-ASR.

Transformers splits audio into windows with loops, and packs the frames that aren't padding. Here all windows are padded
to full length, attention takes the window index of each position, and padding is dropped at the end.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from onnxport.architectures._architecture import Architecture, Tiny, always
from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.configs._parameters import compute_effective_axis_dimension
from onnxport.description._packed_patch_tracing import PackedPatchTracing
from onnxport.description.components import MODALITY_ENCODERS
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.dummy_inputs import DummyInput
from onnxport.description.multimodal import encoded, method_of
from onnxport.patching.patch import Replacement
from onnxport.patching.scope import patching

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from onnxport.description.dummy_inputs import InputContext
    from onnxport.description.preprocessor import Preprocessor
    from onnxport.description.tasks import Task

_FRAMES = 3000
"""Upper bound of the number of frames of dummy audio: thirty seconds, to which such audio is padded."""
_MEL_FRAMES = 24
"""Number of frames of a dummy mel spectrogram."""
_PART = MODALITY_ENCODERS["audio_encoder"]
_MASKS = ("feature_attention_mask", "input_features_mask")


def audio_encoder_of(model: PreTrainedModel) -> Any:
    """Return the windowed audio encoder of a model, which may be the model itself; None if there is none."""
    encoders = (module for module in model.modules() if hasattr(module, "n_window") and hasattr(module, "layers"))
    return next(encoders, None)


class WindowedAudioEncoderOnnxConfig(OnnxConfig):
    """Describe an encoder of audio in windows.

    If all audio clips are shorter than one window, some models return other values, because here windows are padded to
    full length.

    Args:
        model: the encoder, or the full model.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model.config, task="default")
        encoder = audio_encoder_of(model)
        self._tracing, self._is_full_model = PackedPatchTracing(encoder), encoder is not model
        encode_audio = method_of(model, _PART.method) if self._is_full_model else model.forward
        self._mask = next(name for name in _MASKS if name in inspect.signature(encode_audio).parameters)
        self._window, self._bins = 2 * encoder.n_window, encoder.config.num_mel_bins

    @property
    def inputs(self) -> Axes:
        """Features, [batch, mel bins, frames], and a mask of the frames, [batch, frames]."""
        return {"input_features": {0: "batch", 2: "audio_sequence"}, self._mask: {0: "batch", 1: "audio_sequence"}}

    @property
    def outputs(self) -> Axes:
        """Concatenated features of all audio clips, [features, hidden_size]."""
        return {_PART.output if self._is_full_model else "last_hidden_state": {}}

    def generate_dummy_inputs(self, preprocessor: Any, batch_size: int = -1, **named: Any) -> Mapping[str, Any]:  # type: ignore[override]
        """Create dummy audio clips of decreasing length."""
        import torch

        count = compute_effective_axis_dimension(batch_size, self.default_batch_size)
        frames = max(_FRAMES // (2 * self._window), 1) * 2 * self._window
        lengths = frames - torch.arange(count) * 7 % (frames // 2)
        mask = (torch.arange(frames)[None] < lengths[:, None]).long()
        return {"input_features": torch.ones(count, self._bins, frames), self._mask: mask}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the encoder; when exporting, on windows that all have the same length."""
        import torch

        model, (name,) = model_of(forward), self.outputs
        if torch.compiler.is_exporting():
            return {name: self._encode_full_windows(forward, arguments["input_features"], arguments[self._mask])}
        if self._is_full_model:
            return {name: encoded(model, method_of(model, _PART.method), arguments)}
        return {name: model(**arguments, return_dict=True).last_hidden_state}

    def _encode_full_windows(self, forward: Any, features: Any, mask: Any) -> Any:
        import torch

        model, batch = model_of(forward), features.shape[0]
        encoder = audio_encoder_of(model)
        padding = (0, -features.shape[2] % (2 * self._window))  # an even number of windows
        features, mask = (torch.nn.functional.pad(tensor, padding) for tensor in (features, mask))
        encode_audio = encoder if self._is_full_model else forward
        count, size = features.shape[2] // self._window, _conv_length(encoder, self._window)
        lengths = mask.sum(-1)
        rest = lengths % self._window
        valid = lengths // self._window * size + torch.where(rest > 0, _conv_length(encoder, rest), 0)
        position = torch.arange(count * size, device=mask.device)
        window = size * max(getattr(encoder, "n_window_infer", self._window) // self._window, 1)
        window_index = position[None] // window + (torch.arange(batch, device=mask.device) * count * size)[:, None]
        window_index = torch.where(position[None] < valid[:, None], window_index, -1).flatten()
        indices = torch.arange(batch * count * size, device=mask.device)
        precomputed = {"cu_seqlens": window_index}
        with self._tracing.replaced(None, None), _all_positions(encoder, size):
            if hasattr(encoder, "_post_cnn_length"):
                outputs = encode_audio(input_features=features, input_features_mask=mask, **precomputed)
            else:
                masked = features * mask[:, None].to(features.dtype)
                chunks = masked.reshape(batch, self._bins, count, self._window).transpose(1, 2).flatten(0, 1)
                precomputed |= {"padded_feature": chunks, "chunk_lengths": mask.reshape(-1, self._window).sum(-1)}
                precomputed |= {"valid_indices": indices, "pool_indices": indices[::2]}
                outputs = encode_audio(input_features=features, feature_lens=lengths, **precomputed)
        if hasattr(encoder, "avg_pooler"):
            position, valid = position[: count * size // 2], valid // 2
        hidden_states = outputs.last_hidden_state
        project = getattr(getattr(model, "model", model), "multi_modal_projector", None)
        hidden_states = hidden_states if project is None or not self._is_full_model else project(hidden_states)
        return hidden_states.reshape(batch, -1, hidden_states.shape[-1])[position[None] < valid[:, None]]


def _conv_length(encoder: Any, frames: Any) -> Any:
    """Return the number of positions after the convolutions, each of which has stride 2."""
    for _ in range(3 if hasattr(encoder, "conv2d3") else 1):
        frames = (frames - 1) // 2 + 1
    return frames


@contextmanager
def _all_positions(encoder: Any, size: int) -> Iterator[None]:
    """Make an encoder keep every position of every window, and convolve all windows at once, within the block."""
    import torch
    from torch.overrides import TorchFunctionMode

    class AllNonzero(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is torch.Tensor.nonzero:
                return torch.arange(args[0].numel(), device=args[0].device)[:, None]
            return function(*args, **(kwargs or {}))

    changes = {"_post_cnn_length": lambda lengths: torch.full_like(lengths, size), "conv_chunksize": 1 << 31}
    changes = {name: value for name, value in changes.items() if hasattr(encoder, name)}
    with patching(*(Replacement(encoder, name, value) for name, value in changes.items())), AllNonzero():
        yield


def _zeros(*fields: str | int) -> Callable[[InputContext], torch.Tensor]:
    """Return a function that makes zeros of shape [batch, *fields]; a field is a number or the name of one."""

    def make(context: InputContext) -> torch.Tensor:
        import torch

        return torch.zeros(
            context.batch, *(getattr(context.config, one) if isinstance(one, str) else one for one in fields)
        )

    return make


def _codes(context: InputContext) -> torch.Tensor:
    import torch

    return torch.ones(context.batch, _MEL_FRAMES // context.config.repeats, dtype=torch.int64)


class DiffusionTransformerOnnxConfig(DerivedOnnxConfig):
    """Describe one step that denoises a mel spectrogram, of `repeats` frames for each code."""

    dummy_inputs: ClassVar[Mapping[str, DummyInput]] = {
        "hidden_states": DummyInput({0: "batch", 1: "sequence"}, _zeros(_MEL_FRAMES, "mel_dim")),
        "condition_vector": DummyInput({0: "batch", 1: "audio_sequence"}, _zeros(2 * _MEL_FRAMES, "mel_dim")),
        "speaker_embedding": DummyInput({0: "batch", 1: "sequence"}, _zeros(_MEL_FRAMES, "enc_emb_dim")),
        "quantized_code": DummyInput({0: "batch", 1: "sequence"}, _codes),
        "time_step": DummyInput({0: "batch"}, _zeros()),
    }


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
    Architecture(
        ("qwen3_omni_moe_talker_text",),
        left_out={"visual_pos_masks": "the positions of deepstack_visual_embeds, which the talker doesn't get"},
        tiny=Tiny({"shared_expert_intermediate_size": 64}),
    ),
    Architecture(
        ("qwen2_5_omni_thinker", "qwen3_omni_moe_thinker"),
        encoders={"audio_encoder": _audio_encoder},
        tiny=Tiny({"vision_start_token_id": 101, "vision_end_token_id": 102}),
    ),
    Architecture(("qwen2_5_omni_dit",), model=always(DiffusionTransformerOnnxConfig)),
    Architecture(("qwen3_asr",), encoders={"audio_encoder": _audio_encoder}),
    Architecture(
        ("qwen2_5_omni_audio_encoder", "qwen3_omni_moe_audio_encoder", "qwen3_asr_encoder"), model=_encoder_alone
    ),
)
