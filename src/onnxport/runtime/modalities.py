"""Run the encoders of images and audio, and merge the rows that they return into the embeddings of a prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.description.encoder_outputs import MAIN_INPUTS, Modality
from onnxport.errors import OptionError, UnsupportedError
from onnxport.runtime.cross_attention import STATES
from onnxport.runtime.graph import Graph, to_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from onnxport.runtime.directory import Directory

ENCODED = "encoded_modalities"
"""Argument of a first step whose images and audio are encoded already."""
_TYPES = "token_type_ids"


@dataclass(frozen=True)
class Encoded:
    """Hold what an encoder returns for all its images or audio.

    Attributes:
        modality: how it is merged.
        rows: [rows, hidden size].
        deepstack: what some of the decoder's layers add at the same positions, [layers, rows, hidden size]; None for
            nothing.
    """

    modality: Modality
    rows: NDArray[Any]
    deepstack: NDArray[Any] | None = None


def feed_for(graph: Graph, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Choose an encoder's inputs, and complete them.

    Args:
        graph: the encoder.
        inputs: name to array or tensor, None for what isn't given.

    Returns:
        Every input of the graph that is given or follows from the others; None where its main input isn't given.
    """
    feed = {name: inputs[name] for name in graph.inputs if inputs.get(name) is not None}
    main = next((feed[name] for name in MAIN_INPUTS if name in feed), None)
    if main is None:
        return None
    return {name: make(main) for name, make in _DEFAULTS.items() if name in graph.inputs} | feed


def encode(directory: Directory, modalities: Sequence[Modality], inputs: Mapping[str, Any]) -> tuple[Encoded, ...]:
    """Run the encoders whose main inputs are given.

    Args:
        directory: what an export wrote.
        modalities: what its manifest says of them.
        inputs: arrays by name, None for what isn't given.

    Raises:
        OptionError: audio is too long, or an input doesn't fit.
        UnsupportedError: nothing here merges what an encoder returns.
    """
    with_images = any(item.name == "image" and inputs.get(item.input) is not None for item in modalities)
    found = []
    for modality in modalities:
        graph = directory.graph(modality.component)
        if (feed := feed_for(graph, inputs)) is None:
            continue
        _check_length(modality, feed)
        _check_merge(modality)
        outputs = {name: to_array(value) for name, value in graph.run(feed).items()}
        chosen = modality.output_with_images if with_images and modality.output_with_images else modality.output
        rows = outputs[chosen]
        found.append(Encoded(modality, rows.reshape(-1, rows.shape[-1]), outputs.get(modality.deepstack_output)))
    return tuple(found)


def _check_length(modality: Modality, feed: Mapping[str, Any]) -> None:
    length = feed[modality.input].shape[1]
    if modality.max_length is not None and length > modality.max_length:
        raise OptionError(
            f"{modality.input} has {length} frames, and the exported graph takes {modality.max_length} at most: cut "
            "the audio shorter"
        )


def _check_merge(modality: Modality) -> None:
    if modality.merge == "add":
        raise UnsupportedError(
            f"{modality.output} is added to the embeddings step by step, which isn't done here: run the graphs one by "
            "one"
        )
    if modality.merge == "replace" and modality.placeholder_token_id is None:
        raise UnsupportedError(
            f"config.json names no placeholder token for {modality.output}: run the graphs one by one"
        )


def embed(
    directory: Directory,
    input_ids: NDArray[Any],
    encoded: Sequence[Encoded],
    token_type_ids: NDArray[Any] | None = None,
) -> dict[str, Any]:
    """Return the embeddings that a decoder takes in place of token ids.

    Args:
        directory: what an export wrote.
        input_ids: [batch, sequence].
        encoded: see `encode`.
        token_type_ids: [batch, sequence]; zeros without.

    Returns:
        `inputs_embeds` [batch, prefix + sequence, hidden size] and, where the decoder takes them, `token_type_ids`
        [batch, prefix + sequence], 1 for the prefix, `deepstack_embeds` [layers, batch, sequence, hidden size], and
        `cross_attention_states` [batch, rows, hidden size].

    Raises:
        OptionError: the prompt has more or fewer placeholder tokens than there are rows.
    """
    decoder = directory.graph("decoder_model_merged").inputs
    embeds = to_array(directory.graph("embed_tokens").run({"input_ids": input_ids})["inputs_embeds"])
    deepstack = _no_deepstack(decoder.get("deepstack_embeds"), embeds)
    for item in encoded:
        if item.modality.merge != "replace":
            continue
        positions = input_ids == item.modality.placeholder_token_id
        embeds = merge_embeddings(embeds, item.rows, positions)
        if deepstack is not None and item.deepstack is not None:
            deepstack[:, positions] = item.deepstack
    types = np.zeros_like(input_ids) if token_type_ids is None else token_type_ids
    for item in encoded:
        if item.modality.merge == "prefix":
            prefix = _per_prompt(item, embeds)
            embeds = np.concatenate([prefix, embeds], axis=1)
            types = np.concatenate([np.ones(prefix.shape[:2], types.dtype), types], axis=1)
    feed = {"inputs_embeds": embeds}
    for item in encoded:
        if item.modality.merge == "cross-attention":
            feed[STATES] = _per_prompt(item, embeds)
    if _TYPES in decoder:
        feed[_TYPES] = types
    return feed if deepstack is None else {**feed, "deepstack_embeds": deepstack}


def _no_deepstack(described: Any, embeds: NDArray[Any]) -> NDArray[Any] | None:
    return None if described is None else np.zeros((described.axes[0], *embeds.shape), embeds.dtype)


def _per_prompt(encoded: Encoded, embeds: NDArray[Any]) -> NDArray[Any]:
    """Return rows as [batch, rows, hidden size]."""
    batch, _, size = embeds.shape
    if len(encoded.rows) % batch:
        raise OptionError(
            f"{encoded.modality.output} has {len(encoded.rows)} rows, which {batch} prompts can't share: give an image "
            "for each prompt"
        )
    return encoded.rows.reshape(batch, -1, size).astype(embeds.dtype, copy=False)


def expand(encoded: Sequence[Encoded], input_ids: NDArray[Any], times: int) -> tuple[Encoded, ...]:
    """Repeat rows for prompts that are repeated, each prompt's as a whole.

    Args:
        encoded: see `encode`.
        input_ids: the prompts before they are repeated, [batch, sequence].
        times: how often each is repeated.

    Raises:
        OptionError: the prompts have more or fewer placeholder tokens than there are rows.
    """
    found = []
    for item in encoded:
        if item.modality.merge in ("prefix", "cross-attention"):
            counts = np.full(len(input_ids), len(item.rows) // len(input_ids))
        else:
            counts = (input_ids == item.modality.placeholder_token_id).sum(-1)
        _check_count(int(counts.sum()), len(item.rows))
        ends = np.cumsum(counts)
        rows = [np.tile(np.arange(end - count, end), times) for count, end in zip(counts, ends, strict=True)]
        order = np.concatenate(rows)
        deepstack = None if item.deepstack is None else item.deepstack[:, order]
        found.append(Encoded(item.modality, item.rows[order], deepstack))
    return tuple(found)


def merge_embeddings(embeds: NDArray[Any], rows: NDArray[Any], positions: NDArray[Any]) -> NDArray[Any]:
    """Replace the embeddings of placeholder tokens by an encoder's rows, in order.

    Args:
        embeds: of the prompts, [batch, sequence, hidden size].
        rows: of the encoder, [rows, hidden size].
        positions: which tokens are placeholders, [batch, sequence].

    Raises:
        OptionError: there are more or fewer placeholder tokens than rows.
    """
    _check_count(int(positions.sum()), len(rows))
    merged = embeds.copy()
    merged[positions] = rows
    return merged


def _check_count(placeholders: int, rows: int) -> None:
    if placeholders != rows:
        raise OptionError(
            f"the prompt has {placeholders} placeholder tokens but the encoder returned {rows} embeddings; build both "
            "with the same processor"
        )


def encoder_inputs(graphs: list[Graph]) -> frozenset[str]:
    """Return the names of all inputs of encoders."""
    return frozenset(name for graph in graphs for name in graph.inputs)


def _all_pixels(tiles: Any) -> Any:
    """Return a mask of tiles, [images, tiles, channels, height, width], without padding."""
    return np.ones((*tiles.shape[:2], *tiles.shape[3:]), dtype=bool)


def _one_each(images: Any) -> Any:
    """Return how many images each prompt has: one."""
    return np.ones(len(images), dtype=np.int64)


def _all_frames(features: Any) -> Any:
    """Return a mask of features, [batch, mel bins, frames], without padding."""
    return np.ones((len(features), features.shape[-1]), dtype=np.int64)


def _all_first_frames(features: Any) -> Any:
    """Return a mask of features, [batch, frames, mel bins], without padding."""
    return np.ones(features.shape[:2], dtype=bool)


_DEFAULTS: dict[str, Callable[[Any], Any]] = {
    "pixel_attention_mask": _all_pixels,
    "batch_num_images": _one_each,
    "feature_attention_mask": _all_frames,
    "audio_attention_mask": _all_first_frames,
}
"""Inputs that follow from the main one where they aren't given."""
