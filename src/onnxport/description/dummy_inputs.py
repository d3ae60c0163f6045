"""Dummy inputs that no preprocessor makes, by the parameter names of Transformers' forwards.

A description adds those that a forward requires by its signature, or names in an error when it is run without them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxport.description.axes import PATCH_AXES, PATCH_MASK

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

_DECODER_LENGTH = 3
_SEQUENCE_LENGTH = 5
_FRAMES = 4
_SUB_CONFIGS = ("text_config", "vision_config")
_MEL_FRAMES = 20
_CAMERAS = 2
PLACEHOLDER_TOKEN_FIELDS = ("image_token_id", "image_token_index", "audio_token_id", "audio_token_index")
"""Configuration fields with the id of the placeholder token of images or audio."""


def has_placeholders(config: PreTrainedConfig) -> bool:
    """Return whether a model has a placeholder token for images or audio."""
    configs = (config, *(getattr(config, name, None) for name in ("vision_config", "audio_config")))
    return any(getattr(part, name, None) is not None for part in configs for name in PLACEHOLDER_TOKEN_FIELDS)


def placeholder_token_id(config: PreTrainedConfig, modality: str) -> int | None:
    """Return the id of the placeholder token of a modality, `image` or `audio`; None if there is none."""
    fields = (name for name in PLACEHOLDER_TOKEN_FIELDS if name.startswith(modality))
    return next((value for name in fields if isinstance(value := getattr(config, name, None), int)), None)


def replaced_token_id(config: PreTrainedConfig, name: str) -> int | None:
    """Return the id of the token whose embeddings those of an input replace in the prompt; None if there is none.

    Args:
        config: the model's configuration.
        name: an input of a text-to-speech decoder, such as `audio_prompt_latents` or `audio_input_ids`.
    """
    stem = _FEATURES.sub("", name)
    fields = () if stem == name else (f"{name.removesuffix('s')}_token_id", f"{stem}_token_id")
    return next((value for field in fields if isinstance(value := getattr(config, field, None), int)), None)


_FEATURES = re.compile(r"_(latents|input_ids)$")


@dataclass(frozen=True)
class InputContext:
    """Hold what a dummy input may depend on.

    Attributes:
        config: the model's configuration.
        batch: batch size.
        inputs: the inputs that exist already, by name.
    """

    config: PreTrainedConfig
    batch: int
    inputs: Mapping[str, Any]

    def config_int(self, *names: str, default: int) -> int:
        """Return the first field that is an integer, in the configuration or its sub-configurations."""
        configs = (self.config, getattr(self.config, "vlm_config", None))
        nested = [c for config in configs for c in (config, *(getattr(config, name, None) for name in _SUB_CONFIGS))]
        values = (getattr(config, name, None) for config in nested for name in names)
        return next((value for value in values if isinstance(value, int) and not isinstance(value, bool)), default)

    @property
    def length(self) -> int:
        """Sequence length: that of `input_ids` or `attention_mask`, else a default."""
        known = (self.inputs[name] for name in ("input_ids", "attention_mask") if name in self.inputs)
        return next((int(tensor.shape[1]) for tensor in known), _SEQUENCE_LENGTH)

    @property
    def past(self) -> tuple[int, ...]:
        """Shape of a time series' `past_values`, [batch, context_length] or [batch, context_length, channels]."""
        lags = getattr(self.config, "lags_sequence", None)
        if lags:
            return self.batch, self.config_int("context_length", default=16) + max(lags)
        channels = getattr(self.config, "num_input_channels", None)
        return (self.batch, self.config_int("context_length", default=16), *((channels,) if channels else ()))


@dataclass(frozen=True)
class DummyInput:
    """Describe an input that no preprocessor makes.

    Attributes:
        axes: its dynamic axes and their labels.
        make: makes a dummy tensor.
    """

    axes: Mapping[int, str]
    make: Callable[[InputContext], torch.Tensor]


def dummy_input(name: str) -> DummyInput | None:
    """Return the dummy of an input; None if there is none for this name."""
    return _DUMMY_INPUTS.get(name)


def parameters_named_in(error: Exception, parameters: Iterable[str]) -> list[str]:
    """Return the parameters that an error message names and that have a dummy."""
    words = set(re.findall(r"\w+", str(error).lower()))
    return [name for name in parameters if name in words and name in _DUMMY_INPUTS]


def _int_ones(*shape: int) -> torch.Tensor:
    import torch

    return torch.ones(shape, dtype=torch.int64)


def _zeros(*shape: int) -> torch.Tensor:
    import torch

    return torch.zeros(shape)


def _ones(*shape: int) -> torch.Tensor:
    import torch

    return torch.ones(shape)


def _bbox(context: InputContext) -> torch.Tensor:
    import torch

    size = getattr(context.config, "dim_bbox", None)
    if size:  # relative to the page size instead of thousandths of it
        return torch.full((context.batch, context.length, int(size)), 0.5)
    box = torch.tensor([1, 2, 3, 4])
    return box.expand(context.batch, context.length, 4).clone()


def _pixel_values(context: InputContext) -> torch.Tensor:
    import torch

    if takes_padded_patches(context.config):
        return _zeros(context.batch, _patch_count(context), 3 * context.config.patch_size**2)
    if is_vision_language_action(context.config):
        vision = context.config.vlm_config.vision_config
        side = vision.image_size
        return torch.rand(context.batch, _CAMERAS, vision.num_channels, side, side, generator=_generator())
    side = context.config_int("image_size", "crop_size", "max_img_size", default=64)
    count = context.config_int("num_frames", "frames_per_clip", default=_FRAMES)
    return _zeros(context.batch, count, context.config_int("num_channels", "in_chans", default=3), side, side)


def is_vision_language_action(config: PreTrainedConfig) -> bool:
    """Return whether a model is a vision-language-action model: it takes images of several cameras (PI0)."""
    return all(hasattr(config, name) for name in ("vlm_config", "dit_config"))


def leading_placeholders(config: PreTrainedConfig) -> tuple[int, int | None]:
    """Return the number of image placeholder tokens before a prompt, and the token's id; None for any token."""
    if hasattr(config, "num_query_tokens"):
        return config.num_query_tokens, config.image_token_index
    vlm_config = getattr(config, "vlm_config", None)
    if vlm_config is None:
        return getattr(config, "latent_query_num", 0), None
    images = _CAMERAS if is_vision_language_action(config) else 1
    return images * getattr(vlm_config.text_config, "num_image_tokens", 0), vlm_config.image_token_id


def _token_type_ids(context: InputContext) -> torch.Tensor:
    vocabularies = len(getattr(context.config, "type_vocab_sizes", None) or ())
    tokens = context.inputs["input_ids"]
    return 0 * _int_ones(*tokens.shape, *((vocabularies,) if vocabularies else ()))


def _input_features_mask(context: InputContext) -> torch.Tensor:
    import torch

    features = context.inputs["input_features"]
    sizes = [context.config_int(name, default=0) for name in ("num_mel_bins", "input_size")]
    axis = 1 if features.shape[-1] in sizes else -1
    return torch.ones(features.shape[0], features.shape[axis], dtype=torch.bool)


def _decoder_input_ids(context: InputContext) -> torch.Tensor:
    """Make a decoder's token ids; an audio decoder takes a code per codebook and step."""
    decoder = getattr(context.config, "decoder", None) or getattr(context.config, "decoder_config", None)
    codebooks, channels = (getattr(decoder, name, None) for name in ("num_codebooks", "num_channels"))
    if isinstance(codebooks, int):
        return _int_ones(context.batch * codebooks, _DECODER_LENGTH)
    if hasattr(context.config, "max_symbols_per_step"):  # a transducer takes one token per audio hidden state
        return _int_ones(context.batch, 1)
    return _int_ones(context.batch, _DECODER_LENGTH, *((channels,) if isinstance(channels, int) else ()))


def _latents(context: InputContext) -> torch.Tensor:
    size = context.config_int("latent_dim", "hidden_size", "vae_dim", default=64)
    return _zeros(context.batch, size, _DECODER_LENGTH)


def _zeros_like_images(context: InputContext) -> torch.Tensor:
    import torch

    return torch.zeros_like(context.inputs["pixel_values"])


def _timesteps(context: InputContext) -> torch.Tensor:
    import torch

    return torch.arange(context.length).expand(context.batch, context.length).clone()


def takes_frames(config: PreTrainedConfig) -> bool:
    """Return whether a model takes a sequence of images, such as the frames of a video."""
    configs = (config, getattr(config, "vision_config", None))
    return takes_videos(config) or any(
        hasattr(part, name) for part in configs for name in ("num_frames", "frames_per_clip")
    )


def takes_videos(config: PreTrainedConfig) -> bool:
    """Return whether a model has placeholder tokens for videos, but none for images (InstructBLIP for videos)."""
    return hasattr(config, "video_token_index") and not any(
        hasattr(config, f"image_token_{end}") for end in _TOKEN_FIELD_SUFFIXES
    )


_TOKEN_FIELD_SUFFIXES = ("id", "index")


def _normal(*shape: int) -> torch.Tensor:
    import torch

    return torch.randn(shape, generator=_generator())


def _masking_noise(context: InputContext) -> torch.Tensor:
    """Make the `noise` of a masked autoencoder, [batch, patches]; the patches with the largest values are masked.

    Hiera masks units of several patches.
    """
    import torch

    height, width = context.inputs["pixel_values"].shape[-2:]
    strides = getattr(context.config, "patch_stride", None) or [context.config_int("patch_size", default=16)] * 2
    units = getattr(context.config, "masked_unit_size", None) or (1, 1)
    rows, columns = (size // stride // unit for size, stride, unit in zip((height, width), strides, units, strict=True))
    return torch.rand(context.batch, rows * columns, generator=_generator())


def _image_position_mask(context: InputContext) -> torch.Tensor:
    """Make a mask of the image placeholder tokens, which a prompt begins with, [batch, sequence]."""
    mask = 0 * _int_ones(context.batch, context.length)
    mask[:, : leading_placeholders(context.config)[0]] = 1
    return mask


def _image_attention_mask(context: InputContext) -> torch.Tensor:
    """Make a mask in which token i attends to the first i + 1 images, [batch, sequence, images]."""
    import torch

    count = context.inputs["pixel_values"].shape[1]
    return torch.ones(context.length, count).tril().long().expand(context.batch, -1, -1).clone()


def takes_padded_patches(config: PreTrainedConfig) -> bool:
    """Return whether an encoder takes patches, padded to one length, and `pixel_position_ids`."""
    return all(hasattr(config, name) for name in ("position_embedding_size", "pooling_kernel_size", "patch_size"))


def _patch_count(context: InputContext) -> int:
    return int(_FRAMES * (_FRAMES + context.batch) * context.config.pooling_kernel_size**2)


def _padded_position_ids(context: InputContext) -> torch.Tensor:
    """Make the (column, row) of each patch of a square image, -1 for padding, [batch, patches, 2]."""
    import torch

    side, indices = _FRAMES * context.config.pooling_kernel_size, torch.arange(_patch_count(context))
    positions = torch.stack([indices % side, indices // side], dim=-1)
    positions[side**2 :] = -1
    return positions.expand(context.batch, -1, -1).clone()


def _square_position_ids(context: InputContext) -> torch.Tensor:
    """Make the (column, row) of each patch in the largest square of patches, -1 for padding, [batch, patches, 2]."""
    import torch

    count = context.inputs["pixel_values"].shape[1]
    side, indices = math.isqrt(count), torch.arange(count)
    positions = torch.stack([indices % side, indices // side], dim=-1)
    positions[side**2 :] = -1
    return positions.expand(context.batch, -1, -1).clone()


def _pooling_indices(context: InputContext) -> torch.Tensor:
    """Make the patch indices to pool: four features of four patches per image, the last padded with -1."""
    import torch

    first = torch.arange(context.batch)[:, None, None] * int(context.inputs["pixel_values"].shape[1])
    patches: torch.Tensor = first + torch.arange(16).reshape(4, 4)
    patches[:, -1, 2:] = -1
    return patches.flatten(0, 1)


def _global_attention_mask(context: InputContext) -> torch.Tensor:
    """Make a mask with global attention for every other token, [batch, sequence]."""
    mask = 0 * _int_ones(context.batch, context.length)
    mask[:, ::2] = 1
    return mask


def _flattened_patches(context: InputContext) -> torch.Tensor:
    """Make patches whose first two values are their row and column, from 1, [batch, patches, 2 + values]."""
    import torch

    side, channels = context.config_int("patch_size", default=16), context.config_int("num_channels", default=3)
    size = context.config_int("patch_embed_hidden_size", default=channels * side**2)
    patches = torch.rand(context.batch, _FRAMES**2, 2 + size, generator=_generator())
    indices = torch.arange(_FRAMES**2)
    patches[..., 0], patches[..., 1] = indices // _FRAMES + 1, indices % _FRAMES + 1
    return patches


def _patch_mask(context: InputContext) -> torch.Tensor:
    """Make the mask of the patches of images without padding, [batch, rows, columns]."""
    side = context.config_int("patch_size", default=16)
    rows, columns = (size // side for size in context.inputs["pixel_values"].shape[-2:])
    return _int_ones(context.batch, rows, columns) == 1


def _action_embeds(context: InputContext) -> torch.Tensor:
    """Make the embeddings of an action chunk, and before it of a robot's state, [batch, actions, hidden_size].

    PI0.5 has no state among them: it is part of the prompt.
    """
    import torch

    config = context.config
    length = config.chunk_size + hasattr(config, "max_state_dim")
    return torch.rand(context.batch, length, config.dit_config.hidden_size, generator=_generator())


def _timestep_embeds(context: InputContext) -> torch.Tensor:
    """Make the embeddings of the timestep of a denoised action, [batch, hidden_size]."""
    import torch

    return torch.rand(context.batch, context.config.dit_config.hidden_size, generator=_generator())


def _noise(context: InputContext) -> torch.Tensor:
    """Make the noise that is denoised to actions, or that of a masked autoencoder."""
    import torch

    if not is_vision_language_action(context.config):
        return _masking_noise(context)
    shape = (context.batch, context.config.chunk_size, context.config.max_action_dim)
    return torch.rand(shape, generator=_generator())


def _generator() -> torch.Generator:
    import torch

    return torch.Generator().manual_seed(0)


def _context_size(context: InputContext) -> int:
    return context.config_int("hidden_size", default=64) * len(getattr(context.config, "target_layer_ids", None) or [0])


def _time_features(context: InputContext, length: int) -> torch.Tensor:
    config = context.config
    count = getattr(config, "num_time_features", 0) + getattr(config, "num_dynamic_real_features", 0)
    return _zeros(context.batch, length, max(count, 1))


_SEQUENCE = {0: "batch", 1: "sequence"}
_BATCH = {0: "batch"}
_PATCHES = {0: "batch", 1: "patches"}
_AUDIO = {0: "batch", 1: "audio_sequence"}
_IMAGE = {0: "batch", 2: "height", 3: "width"}
_VISUAL = {0: "batch", 1: "visual_sequence"}
_DUMMY_INPUTS: dict[str, DummyInput] = {
    "global_attention_mask": DummyInput(_SEQUENCE, _global_attention_mask),
    "pixel_position_ids": DummyInput(_PATCHES, _padded_position_ids),
    "image_attention_mask": DummyInput({0: "batch", 1: "sequence", 2: "num_images"}, _image_attention_mask),
    "image_token_pooling": DummyInput(_BATCH, _pooling_indices),
    "image_grids": DummyInput(_BATCH, lambda s: _int_ones(s.batch, 4) * _int_ones(4).new_tensor([1, 2, 1, 2])),
    "image_position_ids": DummyInput(_PATCHES, _square_position_ids),
    "audio_input_ids": DummyInput(
        {0: "batch", 1: "audio_sequence"}, lambda s: _int_ones(s.batch, _MEL_FRAMES, s.config.audio_config.n_mel_bins)
    ),
    "audio_mel": DummyInput(
        _AUDIO, lambda s: _zeros(s.batch, _MEL_FRAMES * s.batch, s.config_int("input_feat_size", default=128))
    ),
    "audio_mel_mask": DummyInput(_AUDIO, lambda s: _int_ones(s.batch, _MEL_FRAMES * s.batch) == 0),  # nothing is masked
    "noise_embeds": DummyInput(
        {0: "batch", 1: "block"},
        lambda s: _zeros(s.batch, s.config_int("block_size", default=16), s.config_int("hidden_size", default=64)),
    ),
    "context_hidden_states": DummyInput(_SEQUENCE, lambda s: _zeros(s.batch, _SEQUENCE_LENGTH, _context_size(s))),
    "pixel_attention_mask": DummyInput(_BATCH, lambda s: _int_ones(s.batch, _CAMERAS) == 1),
    "action_embeds": DummyInput(_BATCH, _action_embeds),
    "timestep_embeds": DummyInput(_BATCH, _timestep_embeds),
    "noise": DummyInput(_BATCH, _noise),
    "state": DummyInput(_BATCH, lambda s: _zeros(s.batch, s.config_int("max_state_dim", default=32))),
    "timestep": DummyInput(_BATCH, lambda s: _ones(s.batch)),
    "image_embeds_position_mask": DummyInput(_SEQUENCE, _image_position_mask),
    "decoder_input_ids": DummyInput({0: "batch", 1: "decoder_sequence"}, _decoder_input_ids),
    "inputs": DummyInput(_SEQUENCE, lambda s: _zeros(s.batch, s.length, s.config_int("d_model", default=64))),
    "inputs_embeds": DummyInput(
        _SEQUENCE, lambda s: _zeros(s.batch, s.length, s.config_int("hidden_size", default=64))
    ),
    "query_embeds": DummyInput(_SEQUENCE, lambda s: _zeros(s.batch, s.length, s.config_int("hidden_size", default=64))),
    "encoder_hidden_states": DummyInput(
        {0: "batch", 1: "encoder_sequence"},
        lambda s: _zeros(s.batch, _SEQUENCE_LENGTH, s.config_int("encoder_hidden_size", "hidden_size", default=64)),
    ),
    "pixel_values": DummyInput(_BATCH, _pixel_values),
    "qformer_input_ids": DummyInput({0: "batch", 1: "qformer_sequence"}, lambda s: _int_ones(s.batch, _DECODER_LENGTH)),
    "bbox": DummyInput(_SEQUENCE, _bbox),
    "token_type_ids": DummyInput(_SEQUENCE, _token_type_ids),
    "visual_feats": DummyInput(
        _VISUAL, lambda s: _zeros(s.batch, _SEQUENCE_LENGTH, s.config_int("visual_feat_dim", default=2048))
    ),
    "visual_pos": DummyInput(
        _VISUAL, lambda s: _zeros(s.batch, _SEQUENCE_LENGTH, s.config_int("visual_pos_dim", default=4))
    ),
    "pixel_values_videos": DummyInput(_BATCH, _pixel_values),
    "input_points": DummyInput({0: "batch", 1: "prompts", 2: "points"}, lambda s: _ones(s.batch, 2, 3, 2)),
    "input_labels": DummyInput({0: "batch", 1: "prompts", 2: "points"}, lambda s: _int_ones(s.batch, 2, 3)),
    "input_features_mask": DummyInput(_BATCH, _input_features_mask),
    PATCH_MASK: DummyInput({0: "batch", **dict(enumerate(PATCH_AXES, 1))}, _patch_mask),
    "flattened_patches": DummyInput(_SEQUENCE, _flattened_patches),
    "past_values": DummyInput(_BATCH, lambda s: _zeros(*s.past)),
    "past_observed_mask": DummyInput(_BATCH, lambda s: _ones(*s.past)),
    "past_time_features": DummyInput(_BATCH, lambda s: _time_features(s, s.past[1])),
    "future_values": DummyInput(_BATCH, lambda s: _zeros(s.batch, s.config_int("prediction_length", default=4))),
    "future_time_features": DummyInput(
        _BATCH, lambda s: _time_features(s, s.config_int("prediction_length", default=4))
    ),
    "past_values_padding": DummyInput(_BATCH, lambda s: 0 * _int_ones(*s.past)),
    "freq": DummyInput(_BATCH, lambda s: 0 * _int_ones(s.batch, 1)),
    "task_inputs": DummyInput(_BATCH, lambda s: _int_ones(s.batch, s.config_int("task_seq_len", default=77))),
    "states": DummyInput(_SEQUENCE, lambda s: _zeros(s.batch, s.length, s.config_int("state_dim", default=17))),
    "actions": DummyInput(_SEQUENCE, lambda s: _zeros(s.batch, s.length, s.config_int("act_dim", default=4))),
    "rewards": DummyInput(_SEQUENCE, lambda s: _zeros(s.batch, s.length, 1)),
    "returns_to_go": DummyInput(_SEQUENCE, lambda s: _zeros(s.batch, s.length, 1)),
    "timesteps": DummyInput(_SEQUENCE, _timesteps),
    "prompt_pixel_values": DummyInput(_IMAGE, _zeros_like_images),
    "prompt_masks": DummyInput(_IMAGE, _zeros_like_images),
    "noise_sequence": DummyInput(
        {0: "batch", 1: "noise_length"},
        lambda s: _normal(s.batch, s.inputs["input_features"].shape[1], s.config_int("model_in_channels", default=64)),
    ),
    "decoder_input_values": DummyInput(
        {0: "batch", 1: "decoder_sequence"},
        lambda s: _zeros(s.batch, _DECODER_LENGTH, s.config_int("num_mel_bins", default=80)),
    ),
    "speaker_embeddings": DummyInput(
        _BATCH, lambda s: _zeros(s.batch, s.config_int("speaker_embedding_dim", default=512))
    ),
    "mc_token_ids": DummyInput({0: "batch"}, lambda s: _int_ones(s.batch) * (s.length - 1)),
    **dict.fromkeys(("spkr_id", "speaker_id", "lang_id"), DummyInput(_BATCH, lambda s: _int_ones(s.batch, 1))),
    "spectrogram": DummyInput(
        {0: "batch", 1: "frames"}, lambda s: _zeros(s.batch, _SEQUENCE_LENGTH, s.config_int("model_in_dim", default=80))
    ),
    "latents": DummyInput({0: "batch", 2: "latent_sequence"}, _latents),
}
