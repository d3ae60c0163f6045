"""What encoders of pictures and sounds take, what they say, and where it goes in the texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.architectures.phi4_multimodal import LONGEST
from onnxport.description.components import MODALITY_ENCODERS
from onnxport.errors import OptionError, UnsupportedError
from onnxport.runtime.graph import Graph, to_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from onnxport.runtime.directory import Directory

KINDS = (
    *("pixel_values", "input_features", "image_pixel_values", "audio_input_features", "audio_input_ids"),
    "flattened_patches",
)
"""Inputs that are pictures or sounds themselves: where a graph's isn't given, it isn't run."""
ENCODED = "encoded_media"
"""Argument of a first step whose pictures and sounds are encoded already."""


@dataclass(frozen=True)
class Encoded:
    """Hold what an encoder says of all its pictures or sounds, after each other.

    Attributes:
        rows: states, [places, size].
        deep: what the decoder's first layers get at the same places, [layers, places, size], None for nothing.
    """

    rows: NDArray[Any]
    deep: NDArray[Any] | None = None


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
    medium = next((feed[name] for name in KINDS if name in feed), None)
    if medium is None:
        return None
    return {name: make(medium) for name, make in _DEFAULTS.items() if name in graph.inputs} | feed


def encode(directory: Directory, config: Any, given: Mapping[str, Any]) -> dict[int, Encoded]:
    """Run the encoders of what was given.

    Args:
        directory: what an export wrote.
        config: the model's configuration.
        given: arrays by name, None for what wasn't given.

    Returns:
        The token that leaves room for it, to what an encoder says.

    Raises:
        OptionError: a sound is too long, or something doesn't fit.
    """
    check_lengths(config, given)
    found = {}
    for component, part in MODALITY_ENCODERS.items():
        if directory.has(component):
            graph = directory.graph(component)
            if taken := feed_for(graph, given):
                said = {name: to_array(value) for name, value in graph.run(taken).items()}
                found[token_of(config, part.token)] = encoded_of(said, part.output, given)
    return found


def embedded(directory: Directory, tokens: NDArray[Any], encoded: Mapping[int, Encoded]) -> dict[str, Any]:
    """Return what a decoder takes in place of tokens.

    Args:
        directory: what an export wrote.
        tokens: [batch, tokens].
        encoded: see `encode`.

    Returns:
        `inputs_embeds` [batch, tokens, size] and, where its first layers take such, `deepstack_embeds` [layers, batch,
        tokens, size].

    Raises:
        OptionError: there are more or fewer places than states.
    """
    states = to_array(directory.graph("embed_tokens").run({"input_ids": tokens})["inputs_embeds"])
    place = directory.graph("decoder_model_merged").inputs.get("deepstack_embeds")
    deep = None if place is None else np.zeros((place.axes[0], *states.shape), states.dtype)
    for token, said in encoded.items():
        places = tokens == token
        states = filled(states, said.rows, places)
        if deep is not None and said.deep is not None:
            deep[:, places] = said.deep
    return {"inputs_embeds": states} | ({} if deep is None else {"deepstack_embeds": deep})


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

    Raises:
        UnsupportedError: there is none, as in Voxtral Realtime, whose sound is added to its text.
    """
    names = (name, name.replace("_id", "_index"))  # some configurations are written with the latter
    parts = (config, getattr(config, _ENCODERS[name], None))
    places = [(part, known) for part in parts for known in names]
    places += [(config, known.replace("image", "video")) for known in names]  # InstructBLIP for videos
    found = next((getattr(part, known) for part, known in places if hasattr(part, known)), None)
    if found is None:
        raise UnsupportedError(
            f"config.json names no token ({name}) that leaves room for what the encoder says: run the graphs one by one"
        )
    return int(found)


_ENCODERS = {"image_token_id": "vision_config", "audio_token_id": "audio_config"}


def encoded_of(said: Mapping[str, NDArray[Any]], name: str, given: Mapping[str, Any]) -> Encoded:
    """Take what matters from what an encoder says.

    Args:
        said: outputs of the encoder by name. Phi-4-multimodal's says of sounds beside pictures something of its own.
        name: the output for pictures, or for sounds alone.
        given: what was given to the model.
    """
    beside = f"{name}_beside_images"
    states = said[beside if beside in said and given.get("image_pixel_values") is not None else name]
    return Encoded(states.reshape(-1, states.shape[-1]), said.get("deepstack_features"))


def repeated(encoded: Mapping[int, Encoded], tokens: NDArray[Any], times: int) -> dict[int, Encoded]:
    """Repeat what encoders say for texts that are repeated, each text's as a whole.

    Args:
        encoded: token that leaves room to what stands there.
        tokens: the texts before they are repeated, [batch, tokens].
        times: how often each is.

    Raises:
        OptionError: there are more or fewer places than states.
    """
    found = {}
    for token, said in encoded.items():
        counts = (tokens == token).sum(-1)
        _check_places(int(counts.sum()), len(said.rows))
        ends = np.cumsum(counts)
        texts = [np.tile(np.arange(end - count, end), times) for count, end in zip(counts, ends, strict=True)]
        order = np.concatenate(texts)
        found[token] = Encoded(said.rows[order], None if said.deep is None else said.deep[:, order])
    return found


def filled(states: NDArray[Any], rows: NDArray[Any], places: NDArray[Any]) -> NDArray[Any]:
    """Put an encoder's states at the places that the text leaves, in order.

    Args:
        states: of the text, [batch, tokens, size].
        rows: of the encoder, [places, size].
        places: which tokens leave room, [batch, tokens].

    Raises:
        OptionError: there are more or fewer places than states.
    """
    _check_places(int(places.sum()), len(rows))
    full = states.copy()
    full[places] = rows
    return full


def _check_places(places: int, states: int) -> None:
    if places != states:
        raise OptionError(
            f"the text leaves {places} places for pictures or sounds, which take {states}: make both with the model's "
            "processor"
        )


def encoder_inputs(graphs: list[Graph]) -> frozenset[str]:
    """Name all that encoders take."""
    return frozenset(name for graph in graphs for name in graph.inputs)


def _all_pixels(tiles: Any) -> Any:
    """Say of tiles, [pictures, tiles, channels, height, width], that all their pixels are a picture's."""
    return np.ones((*tiles.shape[:2], *tiles.shape[3:]), dtype=bool)


def _one_each(images: Any) -> Any:
    """Say that each picture has a text of its own."""
    return np.ones(len(images), dtype=np.int64)


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
