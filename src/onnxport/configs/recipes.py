"""Example inputs that no preprocessor makes, by the names that forwards of Transformers give them.

A description takes from here what a forward requires, or asks for by name when it is run without.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_DECODER_LENGTH = 3
_PLACES = 5
_FRAMES = 4
_TICKS = 20


@dataclass(frozen=True)
class Setting:
    """Hold what a recipe may look at.

    Attributes:
        config: the model's configuration.
        batch: samples.
        inputs: what there is already, by name.
    """

    config: Any
    batch: int
    inputs: Mapping[str, Any]

    def number(self, *names: str, default: int) -> int:
        """Return the first of the configuration's fields that is a number, and of those of its parts."""
        parts = (self.config, *(getattr(self.config, part, None) for part in ("text_config", "vision_config")))
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
class Recipe:
    """Say what an input looks like.

    Attributes:
        axes: its axes that may vary, and their labels.
        make: makes an example of it.
    """

    axes: Mapping[int, str]
    make: Callable[[Setting], torch.Tensor]


def recipe(name: str) -> Recipe | None:
    """Return how an input is made; None where that isn't known."""
    return _RECIPES.get(name)


def asked_for(error: Exception, parameters: Iterable[str]) -> list[str]:
    """List the parameters that an error's text names and that can be made."""
    words = set(re.findall(r"\w+", str(error).lower()))
    return [name for name in parameters if name in words and name in _RECIPES]


def _numbers(*shape: int) -> torch.Tensor:
    import torch

    return torch.ones(shape, dtype=torch.int64)


def _zeros(*shape: int) -> torch.Tensor:
    import torch

    return torch.zeros(shape)


def _ones(*shape: int) -> torch.Tensor:
    import torch

    return torch.ones(shape)


def _boxes(setting: Setting) -> torch.Tensor:
    import torch

    size = getattr(setting.config, "dim_bbox", None)
    if size or setting.config.model_type == "udop":  # shares of the page, not thousandths
        return torch.full((setting.batch, setting.length, int(size or 4)), 0.5)
    box = torch.tensor([1, 2, 3, 4])
    return box.expand(setting.batch, setting.length, 4).clone()


def _frames(setting: Setting) -> torch.Tensor:
    if takes_positions(setting.config):
        return _zeros(setting.batch, _patches(setting), 3 * setting.config.patch_size**2)
    side = setting.number("image_size", "crop_size", default=64)
    count = setting.number("num_frames", "frames_per_clip", default=_FRAMES)
    return _zeros(setting.batch, count, setting.number("num_channels", "in_chans", default=3), side, side)


def _kinds(setting: Setting) -> torch.Tensor:
    kinds = len(getattr(setting.config, "type_vocab_sizes", None) or ())
    tokens = setting.inputs["input_ids"]
    return 0 * _numbers(*tokens.shape, *((kinds,) if kinds else ()))


def _sound_mask(setting: Setting) -> torch.Tensor:
    import torch

    features = setting.inputs["input_features"]
    bins = setting.number("num_mel_bins", default=0)
    axis = 1 if features.shape[-1] == bins else -1
    return torch.ones(features.shape[0], features.shape[axis], dtype=torch.bool)


def _decoder_tokens(setting: Setting) -> torch.Tensor:
    """Make tokens of a decoder; one that writes several codes for each step of a sound takes all of them."""
    decoder = getattr(setting.config, "decoder", None) or getattr(setting.config, "decoder_config", None)
    codebooks, channels = (getattr(decoder, name, None) for name in ("num_codebooks", "num_channels"))
    if isinstance(codebooks, int):
        return _numbers(setting.batch * codebooks, _DECODER_LENGTH)
    if hasattr(setting.config, "max_symbols_per_step"):  # a transducer reads one token for every state of the sound
        return _numbers(setting.batch, 1)
    return _numbers(setting.batch, _DECODER_LENGTH, *((channels,) if isinstance(channels, int) else ()))


def _latents(setting: Setting) -> torch.Tensor:
    size = setting.number("latent_dim", "hidden_size", "vae_dim", default=64)
    return _zeros(setting.batch, size, _DECODER_LENGTH)


def _like_pictures(setting: Setting) -> torch.Tensor:
    import torch

    return torch.zeros_like(setting.inputs["pixel_values"])


def _steps(setting: Setting) -> torch.Tensor:
    import torch

    return torch.arange(setting.length).expand(setting.batch, setting.length).clone()


def takes_frames(config: Any) -> bool:
    """Say whether a model reads pictures one after another, as those of a video."""
    parts = (config, getattr(config, "vision_config", None))
    return takes_videos(config) or any(
        hasattr(part, name) for part in parts for name in ("num_frames", "frames_per_clip")
    )


def takes_videos(config: Any) -> bool:
    """Say whether the places that a text leaves are for videos, and none for pictures (InstructBLIP for videos)."""
    return hasattr(config, "video_token_index") and not any(hasattr(config, f"image_token_{end}") for end in _NUMBER)


_NUMBER = ("id", "index")


def _shuffling(setting: Setting) -> torch.Tensor:
    """Make the numbers by whose order a masked autoencoder hides patches."""
    import torch

    height, width = setting.inputs["pixel_values"].shape[-2:]
    side = setting.number("patch_size", default=16)
    return torch.rand(setting.batch, (height // side) * (width // side), generator=torch.Generator().manual_seed(0))


def _places_of_pictures(setting: Setting) -> torch.Tensor:
    """Let a text begin with the places of its picture."""
    mask = 0 * _numbers(setting.batch, setting.length)
    mask[:, : setting.number("latent_query_num", default=2)] = 1
    return mask


def takes_positions(config: Any) -> bool:
    """Say whether an encoder reads pictures as patches, padded to one length, and where each of them stands."""
    return all(hasattr(config, name) for name in ("position_embedding_size", "pooling_kernel_size", "patch_size"))


def _patches(setting: Setting) -> int:
    return int(_FRAMES * (_FRAMES + setting.batch) * setting.config.pooling_kernel_size**2)


def _positions(setting: Setting) -> torch.Tensor:
    """Place the patches of a square picture, in columns and rows; what follows is padding."""
    import torch

    side, numbers = _FRAMES * setting.config.pooling_kernel_size, torch.arange(_patches(setting))
    places = torch.stack([numbers % side, numbers // side], dim=-1)
    places[side**2 :] = -1
    return places.expand(setting.batch, -1, -1).clone()


def _places_in_a_square(setting: Setting) -> torch.Tensor:
    """Place patches in a square, in columns and rows; what follows is padding."""
    import torch

    count = setting.inputs["pixel_values"].shape[1]
    side, numbers = math.isqrt(count), torch.arange(count)
    places = torch.stack([numbers % side, numbers // side], dim=-1)
    places[side**2 :] = -1
    return places.expand(setting.batch, -1, -1).clone()


def _pooled(setting: Setting) -> torch.Tensor:
    """Name the patches that become one state, four for each of four states of a picture; one of them has fewer."""
    import torch

    first = torch.arange(setting.batch)[:, None, None] * int(setting.inputs["pixel_values"].shape[1])
    patches: torch.Tensor = first + torch.arange(16).reshape(4, 4)
    patches[:, -1, 2:] = -1
    return patches.flatten(0, 1)


def _every_other(setting: Setting) -> torch.Tensor:
    """Let every other token see all others."""
    mask = 0 * _numbers(setting.batch, setting.length)
    mask[:, ::2] = 1
    return mask


def _flattened(setting: Setting) -> torch.Tensor:
    """Make patches that begin with their row and column, counted from one."""
    import torch

    side, channels = setting.number("patch_size", default=16), setting.number("num_channels", default=3)
    patches = torch.rand(setting.batch, _FRAMES**2, 2 + channels * side**2, generator=torch.Generator().manual_seed(0))
    numbers = torch.arange(_FRAMES**2)
    patches[..., 0], patches[..., 1] = numbers // _FRAMES + 1, numbers % _FRAMES + 1
    return patches


def _context_size(setting: Setting) -> int:
    return setting.number("hidden_size", default=64) * len(getattr(setting.config, "target_layer_ids", None) or [0])


def _time_features(setting: Setting, length: int) -> torch.Tensor:
    config = setting.config
    count = getattr(config, "num_time_features", 0) + getattr(config, "num_dynamic_real_features", 0)
    return _zeros(setting.batch, length, max(count, 1))


_TEXT = {0: "batch", 1: "sequence"}
_BATCH = {0: "batch"}
_PATCHES = {0: "batch", 1: "patches"}
_SOUND = {0: "batch", 1: "audio_sequence"}
_PICTURE = {0: "batch", 2: "height", 3: "width"}
_VISUAL = {0: "batch", 1: "visual_sequence"}
_RECIPES: dict[str, Recipe] = {
    "global_attention_mask": Recipe(_TEXT, _every_other),
    "pixel_position_ids": Recipe(_PATCHES, _positions),
    "image_token_pooling": Recipe(_BATCH, _pooled),
    "image_grids": Recipe(_BATCH, lambda s: _numbers(s.batch, 4) * _numbers(4).new_tensor([1, 2, 1, 2])),
    "image_position_ids": Recipe(_PATCHES, _places_in_a_square),
    "audio_input_ids": Recipe(
        {0: "batch", 1: "audio_sequence"}, lambda s: _numbers(s.batch, _TICKS, s.config.audio_config.n_mel_bins)
    ),
    "audio_mel": Recipe(_SOUND, lambda s: _zeros(s.batch, _TICKS * s.batch, s.number("input_feat_size", default=128))),
    "audio_mel_mask": Recipe(_SOUND, lambda s: _numbers(s.batch, _TICKS * s.batch) == 0),  # nothing is hidden
    "noise_embeds": Recipe(
        {0: "batch", 1: "block"},
        lambda s: _zeros(s.batch, s.number("block_size", default=16), s.number("hidden_size", default=64)),
    ),
    "context_hidden_states": Recipe(_TEXT, lambda s: _zeros(s.batch, _PLACES, _context_size(s))),
    "noise": Recipe(_BATCH, _shuffling),
    "image_embeds_position_mask": Recipe(_TEXT, _places_of_pictures),
    "decoder_input_ids": Recipe({0: "batch", 1: "decoder_sequence"}, _decoder_tokens),
    "inputs": Recipe(_TEXT, lambda s: _zeros(s.batch, s.length, s.number("d_model", default=64))),
    "inputs_embeds": Recipe(_TEXT, lambda s: _zeros(s.batch, s.length, s.number("hidden_size", default=64))),
    "query_embeds": Recipe(_BATCH, lambda s: _zeros(s.batch, _PLACES, s.number("hidden_size", default=64))),
    "pixel_values": Recipe(_BATCH, _frames),
    "qformer_input_ids": Recipe({0: "batch", 1: "qformer_sequence"}, lambda s: _numbers(s.batch, _DECODER_LENGTH)),
    "bbox": Recipe(_TEXT, _boxes),
    "token_type_ids": Recipe(_TEXT, _kinds),
    "visual_feats": Recipe(_VISUAL, lambda s: _zeros(s.batch, _PLACES, s.number("visual_feat_dim", default=2048))),
    "visual_pos": Recipe(_VISUAL, lambda s: _zeros(s.batch, _PLACES, s.number("visual_pos_dim", default=4))),
    "pixel_values_videos": Recipe(_BATCH, _frames),
    "input_points": Recipe({0: "batch", 1: "prompts", 2: "points"}, lambda s: _ones(s.batch, 2, 3, 2)),
    "input_labels": Recipe({0: "batch", 1: "prompts", 2: "points"}, lambda s: _numbers(s.batch, 2, 3)),
    "input_features_mask": Recipe(_BATCH, _sound_mask),
    "flattened_patches": Recipe(_TEXT, _flattened),
    "past_values": Recipe(_BATCH, lambda s: _zeros(*s.past)),
    "past_observed_mask": Recipe(_BATCH, lambda s: _ones(*s.past)),
    "past_time_features": Recipe(_BATCH, lambda s: _time_features(s, s.past[1])),
    "future_values": Recipe(_BATCH, lambda s: _zeros(s.batch, s.number("prediction_length", default=4))),
    "future_time_features": Recipe(_BATCH, lambda s: _time_features(s, s.number("prediction_length", default=4))),
    "past_values_padding": Recipe(_BATCH, lambda s: 0 * _numbers(*s.past)),
    "freq": Recipe(_BATCH, lambda s: 0 * _numbers(s.batch, 1)),
    "task_inputs": Recipe(_BATCH, lambda s: _numbers(s.batch, s.number("task_seq_len", default=77))),
    "states": Recipe(_TEXT, lambda s: _zeros(s.batch, s.length, s.number("state_dim", default=17))),
    "actions": Recipe(_TEXT, lambda s: _zeros(s.batch, s.length, s.number("act_dim", default=4))),
    "rewards": Recipe(_TEXT, lambda s: _zeros(s.batch, s.length, 1)),
    "returns_to_go": Recipe(_TEXT, lambda s: _zeros(s.batch, s.length, 1)),
    "timesteps": Recipe(_TEXT, _steps),
    "prompt_pixel_values": Recipe(_PICTURE, _like_pictures),
    "prompt_masks": Recipe(_PICTURE, _like_pictures),
    "latents": Recipe({0: "batch", 2: "latent_sequence"}, _latents),
}
