"""Example inputs that no preprocessor makes, by the names that forwards of Transformers give them.

A description takes from here what a forward requires, or asks for by name when it is run without.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxport.errors import UnsupportedError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

_DECODER_LENGTH = 3
_PLACES = 5
_FRAMES = 4
_PARTS = ("text_config", "vision_config")
_TICKS = 20
_CAMERAS = 2
PLACES = ("image_token_id", "image_token_index", "audio_token_id", "audio_token_index")
"""Fields of configurations that tell which token is the placeholder of images or audio."""


@dataclass(frozen=True)
class InputContext:
    """Hold what an example input may depend on.

    Attributes:
        config: the model's configuration.
        batch: samples.
        inputs: what there is already, by name.
    """

    config: PreTrainedConfig
    batch: int
    inputs: Mapping[str, Any]

    def number(self, *names: str, default: int) -> int:
        """Return the first of the configuration's fields that is a number, and of those of its parts."""
        wholes = (self.config, getattr(self.config, "vlm_config", None))
        parts = [part for whole in wholes for part in (whole, *(getattr(whole, name, None) for name in _PARTS))]
        found = (getattr(part, name, None) for part in parts for name in names)
        return next((value for value in found if isinstance(value, int) and not isinstance(value, bool)), default)

    @property
    def length(self) -> int:
        """Tokens of the text, or steps of what goes with a mask, where there is one."""
        known = (self.inputs[name] for name in ("input_ids", "attention_mask") if name in self.inputs)
        return next((int(tensor.shape[1]) for tensor in known), _PLACES)

    @property
    def past(self) -> tuple[int, ...]:
        """Shape of the past values of a time series."""
        lags = getattr(self.config, "lags_sequence", None)
        if lags:
            return self.batch, self.number("context_length", default=16) + max(lags)
        channels = getattr(self.config, "num_input_channels", None)
        return (self.batch, self.number("context_length", default=16), *((channels,) if channels else ()))


@dataclass(frozen=True)
class DummyInput:
    """Describe an input that no preprocessor makes.

    Attributes:
        axes: its axes that may vary, and their labels.
        make: makes an example of it.
    """

    axes: Mapping[int, str]
    make: Callable[[InputContext], torch.Tensor]


def dummy_input(name: str) -> DummyInput | None:
    """Return how an input is made; None where that isn't known."""
    return _DUMMY_INPUTS.get(name)


def asked_for(error: Exception, parameters: Iterable[str]) -> list[str]:
    """List the parameters that an error's text names and that can be made."""
    words = set(re.findall(r"\w+", str(error).lower()))
    return [name for name in parameters if name in words and name in _DUMMY_INPUTS]


def _numbers(*shape: int) -> torch.Tensor:
    import torch

    return torch.ones(shape, dtype=torch.int64)


def _zeros(*shape: int) -> torch.Tensor:
    import torch

    return torch.zeros(shape)


def _ones(*shape: int) -> torch.Tensor:
    import torch

    return torch.ones(shape)


def _boxes(context: InputContext) -> torch.Tensor:
    import torch

    size = getattr(context.config, "dim_bbox", None)
    if size:  # shares of the page, not thousandths
        return torch.full((context.batch, context.length, int(size)), 0.5)
    box = torch.tensor([1, 2, 3, 4])
    return box.expand(context.batch, context.length, 4).clone()


def _frames(context: InputContext) -> torch.Tensor:
    import torch

    if takes_positions(context.config):
        return _zeros(context.batch, _patches(context), 3 * context.config.patch_size**2)
    if takes_cameras(context.config):
        vision = context.config.vlm_config.vision_config
        side = vision.image_size
        return torch.rand(context.batch, _CAMERAS, vision.num_channels, side, side, generator=_seeded())
    side = context.number("image_size", "crop_size", default=64)
    count = context.number("num_frames", "frames_per_clip", default=_FRAMES)
    return _zeros(context.batch, count, context.number("num_channels", "in_chans", default=3), side, side)


def takes_cameras(config: PreTrainedConfig) -> bool:
    """Say whether a model reads what several cameras see, and moves something (PI0)."""
    return all(hasattr(config, name) for name in ("vlm_config", "dit_config"))


def places_before(config: PreTrainedConfig) -> tuple[int, int | None]:
    """Return how many placeholder tokens of an image come before a prompt, and which token; None for any."""
    if hasattr(config, "num_query_tokens"):
        return config.num_query_tokens, config.image_token_index
    whole = getattr(config, "vlm_config", None)
    if whole is None:
        return getattr(config, "latent_query_num", 0), None
    images = _CAMERAS if takes_cameras(config) else 1
    return images * getattr(whole.text_config, "num_image_tokens", 0), whole.image_token_id


def _kinds(context: InputContext) -> torch.Tensor:
    kinds = len(getattr(context.config, "type_vocab_sizes", None) or ())
    tokens = context.inputs["input_ids"]
    return 0 * _numbers(*tokens.shape, *((kinds,) if kinds else ()))


def _audio_mask(context: InputContext) -> torch.Tensor:
    import torch

    features = context.inputs["input_features"]
    sizes = [context.number(name, default=0) for name in ("num_mel_bins", "input_size")]
    axis = 1 if features.shape[-1] in sizes else -1
    return torch.ones(features.shape[0], features.shape[axis], dtype=torch.bool)


def _decoder_tokens(context: InputContext) -> torch.Tensor:
    """Make tokens of a decoder; one that generates several codes for each step of audio takes all of them."""
    decoder = getattr(context.config, "decoder", None) or getattr(context.config, "decoder_config", None)
    codebooks, channels = (getattr(decoder, name, None) for name in ("num_codebooks", "num_channels"))
    if isinstance(codebooks, int):
        return _numbers(context.batch * codebooks, _DECODER_LENGTH)
    if hasattr(
        context.config, "max_symbols_per_step"
    ):  # a transducer takes one token for each hidden state of the audio
        return _numbers(context.batch, 1)
    return _numbers(context.batch, _DECODER_LENGTH, *((channels,) if isinstance(channels, int) else ()))


def _latents(context: InputContext) -> torch.Tensor:
    size = context.number("latent_dim", "hidden_size", "vae_dim", default=64)
    return _zeros(context.batch, size, _DECODER_LENGTH)


def _in_and_out_of_audio(context: InputContext) -> torch.Tensor:
    """Make what one half of an audio codec takes: samples, or latents that become samples.

    Raises:
        UnsupportedError: the model isn't one.
    """
    ratios = getattr(context.config, "downsampling_ratios", None)
    if not ratios:
        raise UnsupportedError(
            f"{context.config.model_type} also takes hidden_states, and no example of that can be made here; "
            "describe its inputs in an OnnxConfig of your own (docs/api.md)"
        )
    if context.config.model_type.endswith("_decoder"):
        return _zeros(context.batch, context.number("hidden_size", default=64), _DECODER_LENGTH)
    return _zeros(context.batch, context.number("channels", default=1), _DECODER_LENGTH * math.prod(ratios))


def _like_images(context: InputContext) -> torch.Tensor:
    import torch

    return torch.zeros_like(context.inputs["pixel_values"])


def _steps(context: InputContext) -> torch.Tensor:
    import torch

    return torch.arange(context.length).expand(context.batch, context.length).clone()


def takes_frames(config: PreTrainedConfig) -> bool:
    """Return whether a model takes a sequence of images, as of a video."""
    parts = (config, getattr(config, "vision_config", None))
    return takes_videos(config) or any(
        hasattr(part, name) for part in parts for name in ("num_frames", "frames_per_clip")
    )


def takes_videos(config: PreTrainedConfig) -> bool:
    """Return whether the placeholder tokens are for videos, and none for images (InstructBLIP for videos)."""
    return hasattr(config, "video_token_index") and not any(hasattr(config, f"image_token_{end}") for end in _NUMBER)


_NUMBER = ("id", "index")


def _normal(*shape: int) -> torch.Tensor:
    import torch

    return torch.randn(shape, generator=_seeded())


def _shuffling(context: InputContext) -> torch.Tensor:
    """Make the numbers by whose order a masked autoencoder hides patches."""
    import torch

    height, width = context.inputs["pixel_values"].shape[-2:]
    side = context.number("patch_size", default=16)
    return torch.rand(context.batch, (height // side) * (width // side), generator=_seeded())


def _places_of_images(context: InputContext) -> torch.Tensor:
    """Let a prompt begin with the placeholder tokens of its image."""
    mask = 0 * _numbers(context.batch, context.length)
    mask[:, : places_before(context.config)[0]] = 1
    return mask


def _images_seen(context: InputContext) -> torch.Tensor:
    """Let each token attend to one image more than the token before, of those of its prompt."""
    import torch

    count = context.inputs["pixel_values"].shape[1]
    return torch.ones(context.length, count).tril().long().expand(context.batch, -1, -1).clone()


def takes_positions(config: PreTrainedConfig) -> bool:
    """Return whether an encoder takes patches of images, padded to one length, and their positions."""
    return all(hasattr(config, name) for name in ("position_embedding_size", "pooling_kernel_size", "patch_size"))


def _patches(context: InputContext) -> int:
    return int(_FRAMES * (_FRAMES + context.batch) * context.config.pooling_kernel_size**2)


def _positions(context: InputContext) -> torch.Tensor:
    """Place the patches of a square image, in columns and rows; what follows is padding."""
    import torch

    side, numbers = _FRAMES * context.config.pooling_kernel_size, torch.arange(_patches(context))
    places = torch.stack([numbers % side, numbers // side], dim=-1)
    places[side**2 :] = -1
    return places.expand(context.batch, -1, -1).clone()


def _places_in_a_square(context: InputContext) -> torch.Tensor:
    """Place patches in a square, in columns and rows; what follows is padding."""
    import torch

    count = context.inputs["pixel_values"].shape[1]
    side, numbers = math.isqrt(count), torch.arange(count)
    places = torch.stack([numbers % side, numbers // side], dim=-1)
    places[side**2 :] = -1
    return places.expand(context.batch, -1, -1).clone()


def _pooled(context: InputContext) -> torch.Tensor:
    """Index the patches of each feature, four for each of four features of an image; one of them has fewer."""
    import torch

    first = torch.arange(context.batch)[:, None, None] * int(context.inputs["pixel_values"].shape[1])
    patches: torch.Tensor = first + torch.arange(16).reshape(4, 4)
    patches[:, -1, 2:] = -1
    return patches.flatten(0, 1)


def _every_other(context: InputContext) -> torch.Tensor:
    """Let every other token see all others."""
    mask = 0 * _numbers(context.batch, context.length)
    mask[:, ::2] = 1
    return mask


def _flattened(context: InputContext) -> torch.Tensor:
    """Make patches that begin with their row and column, counted from one."""
    import torch

    side, channels = context.number("patch_size", default=16), context.number("num_channels", default=3)
    patches = torch.rand(context.batch, _FRAMES**2, 2 + channels * side**2, generator=_seeded())
    numbers = torch.arange(_FRAMES**2)
    patches[..., 0], patches[..., 1] = numbers // _FRAMES + 1, numbers % _FRAMES + 1
    return patches


def _actions(context: InputContext) -> torch.Tensor:
    """Make the states of a robot and of the actions that follow."""
    import torch

    config = context.config
    return torch.rand(context.batch, 1 + config.chunk_size, config.dit_config.hidden_size, generator=_seeded())


def _noise(context: InputContext) -> torch.Tensor:
    """Make what a robot's actions are made of, or the numbers by which patches are hidden."""
    import torch

    if not takes_cameras(context.config):
        return _shuffling(context)
    shape = (context.batch, context.config.chunk_size, context.config.max_action_dim)
    return torch.rand(shape, generator=_seeded())


def _seeded() -> torch.Generator:
    import torch

    return torch.Generator().manual_seed(0)


def _context_size(context: InputContext) -> int:
    return context.number("hidden_size", default=64) * len(getattr(context.config, "target_layer_ids", None) or [0])


def _time_features(context: InputContext, length: int) -> torch.Tensor:
    config = context.config
    count = getattr(config, "num_time_features", 0) + getattr(config, "num_dynamic_real_features", 0)
    return _zeros(context.batch, length, max(count, 1))


_TEXT = {0: "batch", 1: "sequence"}
_BATCH = {0: "batch"}
_PATCHES = {0: "batch", 1: "patches"}
_AUDIO = {0: "batch", 1: "audio_sequence"}
_IMAGE = {0: "batch", 2: "height", 3: "width"}
_VISUAL = {0: "batch", 1: "visual_sequence"}
_DUMMY_INPUTS: dict[str, DummyInput] = {
    "global_attention_mask": DummyInput(_TEXT, _every_other),
    "pixel_position_ids": DummyInput(_PATCHES, _positions),
    "image_attention_mask": DummyInput({0: "batch", 1: "sequence", 2: "num_images"}, _images_seen),
    "image_token_pooling": DummyInput(_BATCH, _pooled),
    "image_grids": DummyInput(_BATCH, lambda s: _numbers(s.batch, 4) * _numbers(4).new_tensor([1, 2, 1, 2])),
    "image_position_ids": DummyInput(_PATCHES, _places_in_a_square),
    "audio_input_ids": DummyInput(
        {0: "batch", 1: "audio_sequence"}, lambda s: _numbers(s.batch, _TICKS, s.config.audio_config.n_mel_bins)
    ),
    "audio_mel": DummyInput(
        _AUDIO, lambda s: _zeros(s.batch, _TICKS * s.batch, s.number("input_feat_size", default=128))
    ),
    "audio_mel_mask": DummyInput(_AUDIO, lambda s: _numbers(s.batch, _TICKS * s.batch) == 0),  # nothing is hidden
    "noise_embeds": DummyInput(
        {0: "batch", 1: "block"},
        lambda s: _zeros(s.batch, s.number("block_size", default=16), s.number("hidden_size", default=64)),
    ),
    "context_hidden_states": DummyInput(_TEXT, lambda s: _zeros(s.batch, _PLACES, _context_size(s))),
    "pixel_attention_mask": DummyInput(_BATCH, lambda s: _numbers(s.batch, _CAMERAS) == 1),
    "action_embeds": DummyInput(_BATCH, _actions),
    "noise": DummyInput(_BATCH, _noise),
    "state": DummyInput(_BATCH, lambda s: _zeros(s.batch, s.number("max_state_dim", default=32))),
    "timestep": DummyInput(_BATCH, lambda s: _ones(s.batch)),
    "image_embeds_position_mask": DummyInput(_TEXT, _places_of_images),
    "decoder_input_ids": DummyInput({0: "batch", 1: "decoder_sequence"}, _decoder_tokens),
    "inputs": DummyInput(_TEXT, lambda s: _zeros(s.batch, s.length, s.number("d_model", default=64))),
    "inputs_embeds": DummyInput(_TEXT, lambda s: _zeros(s.batch, s.length, s.number("hidden_size", default=64))),
    "query_embeds": DummyInput(_TEXT, lambda s: _zeros(s.batch, s.length, s.number("hidden_size", default=64))),
    "encoder_hidden_states": DummyInput(
        {0: "batch", 1: "encoder_sequence"},
        lambda s: _zeros(s.batch, _PLACES, s.number("encoder_hidden_size", "hidden_size", default=64)),
    ),
    "pixel_values": DummyInput(_BATCH, _frames),
    "qformer_input_ids": DummyInput({0: "batch", 1: "qformer_sequence"}, lambda s: _numbers(s.batch, _DECODER_LENGTH)),
    "bbox": DummyInput(_TEXT, _boxes),
    "token_type_ids": DummyInput(_TEXT, _kinds),
    "visual_feats": DummyInput(_VISUAL, lambda s: _zeros(s.batch, _PLACES, s.number("visual_feat_dim", default=2048))),
    "visual_pos": DummyInput(_VISUAL, lambda s: _zeros(s.batch, _PLACES, s.number("visual_pos_dim", default=4))),
    "pixel_values_videos": DummyInput(_BATCH, _frames),
    "input_points": DummyInput({0: "batch", 1: "prompts", 2: "points"}, lambda s: _ones(s.batch, 2, 3, 2)),
    "input_labels": DummyInput({0: "batch", 1: "prompts", 2: "points"}, lambda s: _numbers(s.batch, 2, 3)),
    "input_features_mask": DummyInput(_BATCH, _audio_mask),
    "flattened_patches": DummyInput(_TEXT, _flattened),
    "past_values": DummyInput(_BATCH, lambda s: _zeros(*s.past)),
    "past_observed_mask": DummyInput(_BATCH, lambda s: _ones(*s.past)),
    "past_time_features": DummyInput(_BATCH, lambda s: _time_features(s, s.past[1])),
    "future_values": DummyInput(_BATCH, lambda s: _zeros(s.batch, s.number("prediction_length", default=4))),
    "future_time_features": DummyInput(_BATCH, lambda s: _time_features(s, s.number("prediction_length", default=4))),
    "past_values_padding": DummyInput(_BATCH, lambda s: 0 * _numbers(*s.past)),
    "freq": DummyInput(_BATCH, lambda s: 0 * _numbers(s.batch, 1)),
    "task_inputs": DummyInput(_BATCH, lambda s: _numbers(s.batch, s.number("task_seq_len", default=77))),
    "states": DummyInput(_TEXT, lambda s: _zeros(s.batch, s.length, s.number("state_dim", default=17))),
    "actions": DummyInput(_TEXT, lambda s: _zeros(s.batch, s.length, s.number("act_dim", default=4))),
    "rewards": DummyInput(_TEXT, lambda s: _zeros(s.batch, s.length, 1)),
    "returns_to_go": DummyInput(_TEXT, lambda s: _zeros(s.batch, s.length, 1)),
    "timesteps": DummyInput(_TEXT, _steps),
    "prompt_pixel_values": DummyInput(_IMAGE, _like_images),
    "prompt_masks": DummyInput(_IMAGE, _like_images),
    "noise_sequence": DummyInput(
        {0: "batch", 1: "noise_length"},
        lambda s: _normal(s.batch, s.inputs["input_features"].shape[1], s.number("model_in_channels", default=64)),
    ),
    "hidden_states": DummyInput(_BATCH, _in_and_out_of_audio),
    "decoder_input_values": DummyInput(
        {0: "batch", 1: "decoder_sequence"},
        lambda s: _zeros(s.batch, _DECODER_LENGTH, s.number("num_mel_bins", default=80)),
    ),
    "speaker_embeddings": DummyInput(_BATCH, lambda s: _zeros(s.batch, s.number("speaker_embedding_dim", default=512))),
    "latents": DummyInput({0: "batch", 2: "latent_sequence"}, _latents),
}
