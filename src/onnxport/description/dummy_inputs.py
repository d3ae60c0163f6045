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

_DECODER_LENGTH = 3
_PLACES = 5
_FRAMES = 4
_PARTS = ("text_config", "vision_config")
_TICKS = 20
_CAMERAS = 2
PLACES = ("image_token_id", "image_token_index", "audio_token_id", "audio_token_index")
"""Fields of configurations that tell which token stands for a picture's or a sound's states."""


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
    if size:  # shares of the page, not thousandths
        return torch.full((setting.batch, setting.length, int(size)), 0.5)
    box = torch.tensor([1, 2, 3, 4])
    return box.expand(setting.batch, setting.length, 4).clone()


def _frames(setting: Setting) -> torch.Tensor:
    import torch

    if takes_positions(setting.config):
        return _zeros(setting.batch, _patches(setting), 3 * setting.config.patch_size**2)
    if takes_cameras(setting.config):
        vision = setting.config.vlm_config.vision_config
        side = vision.image_size
        return torch.rand(setting.batch, _CAMERAS, vision.num_channels, side, side, generator=_seeded())
    side = setting.number("image_size", "crop_size", default=64)
    count = setting.number("num_frames", "frames_per_clip", default=_FRAMES)
    return _zeros(setting.batch, count, setting.number("num_channels", "in_chans", default=3), side, side)


def takes_cameras(config: Any) -> bool:
    """Say whether a model reads what several cameras see, and moves something (PI0)."""
    return all(hasattr(config, name) for name in ("vlm_config", "dit_config"))


def places_before(config: Any) -> tuple[int, int | None]:
    """Return how many tokens before a text are places of a picture's states, and which token; None for any."""
    if hasattr(config, "num_query_tokens"):
        return config.num_query_tokens, config.image_token_index
    whole = getattr(config, "vlm_config", None)
    if whole is None:
        return getattr(config, "latent_query_num", 0), None
    images = _CAMERAS if takes_cameras(config) else 1
    return images * getattr(whole.text_config, "num_image_tokens", 0), whole.image_token_id


def _kinds(setting: Setting) -> torch.Tensor:
    kinds = len(getattr(setting.config, "type_vocab_sizes", None) or ())
    tokens = setting.inputs["input_ids"]
    return 0 * _numbers(*tokens.shape, *((kinds,) if kinds else ()))


def _audio_mask(setting: Setting) -> torch.Tensor:
    import torch

    features = setting.inputs["input_features"]
    sizes = [setting.number(name, default=0) for name in ("num_mel_bins", "input_size")]
    axis = 1 if features.shape[-1] in sizes else -1
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


def _in_and_out_of_audio(setting: Setting) -> torch.Tensor:
    """Make what one half of a sound's tokenizer takes: samples, or states that become samples.

    Raises:
        UnsupportedError: the model isn't one.
    """
    ratios = getattr(setting.config, "downsampling_ratios", None)
    if not ratios:
        raise UnsupportedError(
            f"{setting.config.model_type} also takes hidden_states, and no example of that can be made here; "
            "describe its inputs in an OnnxConfig of your own (docs/api.md)"
        )
    if setting.config.model_type.endswith("_decoder"):
        return _zeros(setting.batch, setting.number("hidden_size", default=64), _DECODER_LENGTH)
    return _zeros(setting.batch, setting.number("channels", default=1), _DECODER_LENGTH * math.prod(ratios))


def _like_images(setting: Setting) -> torch.Tensor:
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


def _normal(*shape: int) -> torch.Tensor:
    import torch

    return torch.randn(shape, generator=_seeded())


def _shuffling(setting: Setting) -> torch.Tensor:
    """Make the numbers by whose order a masked autoencoder hides patches."""
    import torch

    height, width = setting.inputs["pixel_values"].shape[-2:]
    side = setting.number("patch_size", default=16)
    return torch.rand(setting.batch, (height // side) * (width // side), generator=_seeded())


def _places_of_images(setting: Setting) -> torch.Tensor:
    """Let a text begin with the places of its picture."""
    mask = 0 * _numbers(setting.batch, setting.length)
    mask[:, : places_before(setting.config)[0]] = 1
    return mask


def _images_seen(setting: Setting) -> torch.Tensor:
    """Let each token see one picture more than the one before it, of those that were made for its text."""
    import torch

    count = setting.inputs["pixel_values"].shape[1]
    return torch.ones(setting.length, count).tril().long().expand(setting.batch, -1, -1).clone()


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
    patches = torch.rand(setting.batch, _FRAMES**2, 2 + channels * side**2, generator=_seeded())
    numbers = torch.arange(_FRAMES**2)
    patches[..., 0], patches[..., 1] = numbers // _FRAMES + 1, numbers % _FRAMES + 1
    return patches


def _actions(setting: Setting) -> torch.Tensor:
    """Make the states of a robot and of the actions that follow."""
    import torch

    config = setting.config
    return torch.rand(setting.batch, 1 + config.chunk_size, config.dit_config.hidden_size, generator=_seeded())


def _noise(setting: Setting) -> torch.Tensor:
    """Make what a robot's actions are made of, or the numbers by which patches are hidden."""
    import torch

    if not takes_cameras(setting.config):
        return _shuffling(setting)
    shape = (setting.batch, setting.config.chunk_size, setting.config.max_action_dim)
    return torch.rand(shape, generator=_seeded())


def _seeded() -> torch.Generator:
    import torch

    return torch.Generator().manual_seed(0)


def _context_size(setting: Setting) -> int:
    return setting.number("hidden_size", default=64) * len(getattr(setting.config, "target_layer_ids", None) or [0])


def _time_features(setting: Setting, length: int) -> torch.Tensor:
    config = setting.config
    count = getattr(config, "num_time_features", 0) + getattr(config, "num_dynamic_real_features", 0)
    return _zeros(setting.batch, length, max(count, 1))


_TEXT = {0: "batch", 1: "sequence"}
_BATCH = {0: "batch"}
_PATCHES = {0: "batch", 1: "patches"}
_AUDIO = {0: "batch", 1: "audio_sequence"}
_IMAGE = {0: "batch", 2: "height", 3: "width"}
_VISUAL = {0: "batch", 1: "visual_sequence"}
_RECIPES: dict[str, Recipe] = {
    "global_attention_mask": Recipe(_TEXT, _every_other),
    "pixel_position_ids": Recipe(_PATCHES, _positions),
    "image_attention_mask": Recipe({0: "batch", 1: "sequence", 2: "num_images"}, _images_seen),
    "image_token_pooling": Recipe(_BATCH, _pooled),
    "image_grids": Recipe(_BATCH, lambda s: _numbers(s.batch, 4) * _numbers(4).new_tensor([1, 2, 1, 2])),
    "image_position_ids": Recipe(_PATCHES, _places_in_a_square),
    "audio_input_ids": Recipe(
        {0: "batch", 1: "audio_sequence"}, lambda s: _numbers(s.batch, _TICKS, s.config.audio_config.n_mel_bins)
    ),
    "audio_mel": Recipe(_AUDIO, lambda s: _zeros(s.batch, _TICKS * s.batch, s.number("input_feat_size", default=128))),
    "audio_mel_mask": Recipe(_AUDIO, lambda s: _numbers(s.batch, _TICKS * s.batch) == 0),  # nothing is hidden
    "noise_embeds": Recipe(
        {0: "batch", 1: "block"},
        lambda s: _zeros(s.batch, s.number("block_size", default=16), s.number("hidden_size", default=64)),
    ),
    "context_hidden_states": Recipe(_TEXT, lambda s: _zeros(s.batch, _PLACES, _context_size(s))),
    "pixel_attention_mask": Recipe(_BATCH, lambda s: _numbers(s.batch, _CAMERAS) == 1),
    "action_embeds": Recipe(_BATCH, _actions),
    "noise": Recipe(_BATCH, _noise),
    "state": Recipe(_BATCH, lambda s: _zeros(s.batch, s.number("max_state_dim", default=32))),
    "timestep": Recipe(_BATCH, lambda s: _ones(s.batch)),
    "image_embeds_position_mask": Recipe(_TEXT, _places_of_images),
    "decoder_input_ids": Recipe({0: "batch", 1: "decoder_sequence"}, _decoder_tokens),
    "inputs": Recipe(_TEXT, lambda s: _zeros(s.batch, s.length, s.number("d_model", default=64))),
    "inputs_embeds": Recipe(_TEXT, lambda s: _zeros(s.batch, s.length, s.number("hidden_size", default=64))),
    "query_embeds": Recipe(_TEXT, lambda s: _zeros(s.batch, s.length, s.number("hidden_size", default=64))),
    "encoder_hidden_states": Recipe(
        {0: "batch", 1: "encoder_sequence"},
        lambda s: _zeros(s.batch, _PLACES, s.number("encoder_hidden_size", "hidden_size", default=64)),
    ),
    "pixel_values": Recipe(_BATCH, _frames),
    "qformer_input_ids": Recipe({0: "batch", 1: "qformer_sequence"}, lambda s: _numbers(s.batch, _DECODER_LENGTH)),
    "bbox": Recipe(_TEXT, _boxes),
    "token_type_ids": Recipe(_TEXT, _kinds),
    "visual_feats": Recipe(_VISUAL, lambda s: _zeros(s.batch, _PLACES, s.number("visual_feat_dim", default=2048))),
    "visual_pos": Recipe(_VISUAL, lambda s: _zeros(s.batch, _PLACES, s.number("visual_pos_dim", default=4))),
    "pixel_values_videos": Recipe(_BATCH, _frames),
    "input_points": Recipe({0: "batch", 1: "prompts", 2: "points"}, lambda s: _ones(s.batch, 2, 3, 2)),
    "input_labels": Recipe({0: "batch", 1: "prompts", 2: "points"}, lambda s: _numbers(s.batch, 2, 3)),
    "input_features_mask": Recipe(_BATCH, _audio_mask),
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
    "prompt_pixel_values": Recipe(_IMAGE, _like_images),
    "prompt_masks": Recipe(_IMAGE, _like_images),
    "noise_sequence": Recipe(
        {0: "batch", 1: "noise_length"},
        lambda s: _normal(s.batch, s.inputs["input_features"].shape[1], s.number("model_in_channels", default=64)),
    ),
    "hidden_states": Recipe(_BATCH, _in_and_out_of_audio),
    "decoder_input_values": Recipe(
        {0: "batch", 1: "decoder_sequence"},
        lambda s: _zeros(s.batch, _DECODER_LENGTH, s.number("num_mel_bins", default=80)),
    ),
    "speaker_embeddings": Recipe(_BATCH, lambda s: _zeros(s.batch, s.number("speaker_embedding_dim", default=512))),
    "latents": Recipe({0: "batch", 2: "latent_sequence"}, _latents),
}
