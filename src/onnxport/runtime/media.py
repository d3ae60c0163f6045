"""What the encoder of pictures or sounds takes beside them, where a caller gave only some of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from onnxport.configs.phi4 import LONGEST
from onnxport.errors import OptionError
from onnxport.runtime.graph import Graph

MEDIA = ("pixel_values", "input_features", "image_pixel_values", "audio_input_features")
"""Inputs that are pictures or sounds themselves: where a graph's isn't given, it isn't run."""


def feed_for(graph: Graph, given: Mapping[str, Any]) -> dict[str, Any] | None:
    """Choose what an encoder takes from all that was given, and complete it.

    Args:
        graph: the encoder.
        given: name to array or tensor, None for what wasn't given.

    Returns:
        Every input of the graph that was given or can be told from the others; None where neither pictures nor sounds
        were given that it takes.
    """
    feed = {name: given[name] for name in graph.inputs if given.get(name) is not None}
    medium = next((feed[name] for name in MEDIA if name in feed), None)
    if medium is None:
        return None
    return {name: make(medium) for name, make in _DEFAULTS.items() if name in graph.inputs} | feed


def check_lengths(config: Any, given: Mapping[str, Any]) -> None:
    """Look whether sounds are as short as Phi-4-multimodal's encoder was exported for.

    Raises:
        OptionError: one is longer.
    """
    features = given.get("audio_input_features")
    if features is None or features.shape[1] <= (longest := LONGEST * config.audio_config.time_reduction):
        return
    raise OptionError(
        f"a sound has {features.shape[1]} frames, and the exported graph takes {longest} at most: cut it shorter"
    )


def token_of(config: Any, name: str) -> int:
    """Return the token that leaves room for pictures or sounds: from the configuration, or that of the encoder.

    Args:
        config: the model's configuration.
        name: `image_token_id` or `audio_token_id`.
    """
    part = config if hasattr(config, name) else getattr(config, _ENCODERS[name])
    return int(getattr(part, name))


_ENCODERS = {"image_token_id": "vision_config", "audio_token_id": "audio_config"}


def states_for(said: Mapping[str, Any], name: str, given: Mapping[str, Any]) -> Any:
    """Choose from what an encoder says: Phi-4-multimodal's says one thing of sounds alone, another beside pictures.

    Args:
        said: outputs of the encoder by name.
        name: the output for pictures, or for sounds alone.
        given: what was given to the model.
    """
    beside = said.get(f"{name}_beside_pictures")
    return said[name] if beside is None or given.get("image_pixel_values") is None else beside


def encoder_inputs(graphs: list[Graph]) -> frozenset[str]:
    """Name all that encoders take."""
    return frozenset(name for graph in graphs for name in graph.inputs)


def _all_pixels(tiles: Any) -> Any:
    """Say of tiles, [pictures, tiles, channels, height, width], that all their pixels are a picture's."""
    return np.ones((*tiles.shape[:2], *tiles.shape[3:]), dtype=bool)


def _one_each(pictures: Any) -> Any:
    """Say that each picture has a text of its own."""
    return np.ones(len(pictures), dtype=np.int64)


def _all_frames(features: Any) -> Any:
    """Say of features, [sounds, values of each, frames], that all their frames are the sound's own."""
    return np.ones((len(features), features.shape[-1]), dtype=np.int64)


def _all_heard(features: Any) -> Any:
    """Say of features, [sounds, frames, values of each], that all their frames are the sound's own."""
    return np.ones(features.shape[:2], dtype=bool)


_DEFAULTS: dict[str, Callable[[Any], Any]] = {
    "pixel_attention_mask": _all_pixels,
    "batch_num_images": _one_each,
    "feature_attention_mask": _all_frames,
    "audio_attention_mask": _all_heard,
}
