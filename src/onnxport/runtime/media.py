"""What the encoder of pictures or sounds takes beside them, where a caller gave only some of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from onnxport.runtime.graph import Graph

MEDIA = ("pixel_values", "input_features")
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


_DEFAULTS: dict[str, Callable[[Any], Any]] = {
    "pixel_attention_mask": _all_pixels,
    "batch_num_images": _one_each,
    "feature_attention_mask": _all_frames,
}
