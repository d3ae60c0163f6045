"""Run the encoders of images and audio, and merge their embeddings into those of the prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.description.axes import PADDING_MASKS
from onnxport.description.encoder_outputs import MAIN_INPUTS, Modality
from onnxport.errors import OptionError, UnsupportedError
from onnxport.runtime.cross_attention import STATES
from onnxport.runtime.graph import Graph, TensorSpec, missing_shapes, to_array
from onnxport.runtime.token_embedding import EMBEDDING, EMBEDS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from onnxport.runtime.directory import Directory

Inputs = Mapping[str, "NDArray[Any] | None"]
"""A model's inputs by name; None for missing ones."""
ENCODED = "encoder_features"
"""Argument of `forward` with the encoders' outputs, if they were computed before the first step."""
_IMAGE_SIZES, _PADDING_MASK = "image_sizes", "padding_mask"
PER_LAYER = "per_layer_inputs"
"""Output of the token embeddings and input of the decoder: an embedding of each token for each layer (Gemma 3n)."""
_CROPS = "pixel_values_local"
"""Crops of all images; an image that is small has none."""
POSITION_MASK = "image_embeds_position_mask"
"""Mask of the tokens that images replace, [batch, sequence], of models without a placeholder token (Kosmos-2)."""
TOKEN_TYPES = ("token_type_ids", "mm_token_type_ids", "moe_mm_token_type_ids")
"""Names of a decoder's input that is 1 for an image's tokens."""


@dataclass(frozen=True)
class EncoderFeatures:
    """Hold an encoder's output for all images or audio clips of a batch, concatenated.

    Attributes:
        modality: how it is merged.
        embeddings: [count, hidden size].
        deepstack: hidden states that some layers of the decoder add at the same positions, [layers, count, hidden
            size]; None for encoders without.
    """

    modality: Modality
    embeddings: NDArray[Any]
    deepstack: NDArray[Any] | None = None


def encoder_feed(graph: Graph, inputs: Inputs) -> dict[str, NDArray[Any]] | None:
    """Select an encoder's inputs from a model's, and fill in the masks and counts that are missing.

    Args:
        graph: the encoder.
        inputs: the model's inputs.

    Returns:
        The encoder's inputs; None if its main input is missing.
    """
    feed = {name: value for name in graph.inputs if (value := inputs.get(name)) is not None}
    main = next((feed[name] for name in MAIN_INPUTS if name in feed), None)
    if main is None:
        return None
    feed = {name: make(main) for name, make in _DEFAULTS.items() if name in graph.inputs} | feed
    for name, shape in missing_shapes(graph.inputs, feed).items():
        if name == _CROPS and -1 not in shape[1:]:
            feed[name] = np.zeros((0, *shape[1:]), dtype=graph.inputs[name].dtype)
        elif name.endswith("mask") and -1 not in shape:
            feed[name] = np.full(shape, int(name not in PADDING_MASKS), dtype=graph.inputs[name].dtype)
    return feed


def encode(directory: Directory, modalities: Sequence[Modality], inputs: Inputs) -> tuple[EncoderFeatures, ...]:
    """Run the encoders whose main input isn't missing.

    Args:
        directory: the exported directory.
        modalities: the modalities in its manifest.
        inputs: the model's inputs.

    Raises:
        OptionError: an audio clip is too long, or an input has the wrong shape.
        UnsupportedError: the runtime doesn't support the merge strategy of an encoder's output.
    """
    with_images = any(item.name == "image" and inputs.get(item.input) is not None for item in modalities)
    features = []
    for modality in modalities:
        graph = directory.graph(modality.component)
        if (feed := encoder_feed(graph, inputs)) is None:
            continue
        _check_length(modality, feed)
        _check_merge(modality, inputs)
        output = modality.output_with_images if with_images and modality.output_with_images else modality.output
        runs = [graph.run(part) for part in _cropped(graph, modality.input, feed, inputs)]
        outputs = {name: to_array(value) for name, value in runs[-1].items()}
        rows = [to_array(run[output]) for run in runs]
        embeddings = np.concatenate([values.reshape(-1, values.shape[-1]) for values in rows])
        features.append(EncoderFeatures(modality, embeddings, outputs.get(modality.deepstack_output)))
    return tuple(features)


def _check_length(modality: Modality, feed: Mapping[str, NDArray[Any]]) -> None:
    length = feed[modality.input].shape[1]
    if modality.max_length is not None and length > modality.max_length:
        raise OptionError(
            f"{modality.input} has {length} frames, and the exported graph accepts at most {modality.max_length}: cut "
            "the audio into shorter clips"
        )


def _cropped(graph: Graph, name: str, feed: dict[str, NDArray[Any]], inputs: Inputs) -> list[dict[str, NDArray[Any]]]:
    """Return the inputs of an encoder of one image or clip: each without its padding; else the feed itself.

    Args:
        graph: the encoder.
        name: its main input.
        feed: its inputs.
        inputs: the model's inputs: `image_sizes`, the height and width of each image, [images, 2], or `padding_mask`,
            which is 1 for the samples of each clip, [clips, samples].
    """
    given = _PADDING_MASK if name == "input_values" else _IMAGE_SIZES
    extents = inputs.get(given)
    if extents is None or given in graph.inputs or graph.inputs[name].axes[0] != 1:
        return [feed]
    if given == _PADDING_MASK:
        extents = extents.sum(axis=1, keepdims=True)
    ends = [tuple(slice(int(size)) for size in one) for one in extents]
    return [{**feed, name: value[(None, ..., *end)]} for value, end in zip(feed[name], ends, strict=True)]


def _check_merge(modality: Modality, inputs: Inputs) -> None:
    if modality.merge == "add":
        raise UnsupportedError(
            f"{modality.output} is added to the token embeddings of each step, which isn't supported: run the graphs "
            "one by one"
        )
    if modality.merge == "replace" and modality.placeholder_token_id is None and inputs.get(POSITION_MASK) is None:
        raise UnsupportedError(
            f"config.json has no placeholder token id for {modality.output}: run the graphs one by one"
        )


def embed_and_merge(
    directory: Directory,
    tokens: NDArray[Any],
    features: Sequence[EncoderFeatures],
    token_type_ids: NDArray[Any] | None = None,
    position_mask: NDArray[Any] | None = None,
) -> dict[str, Any]:
    """Embed tokens, and merge the encoders' outputs into the token embeddings.

    Args:
        directory: the exported directory.
        tokens: token ids, [batch, sequence], or their embeddings, [batch, sequence, hidden size].
        features: the encoders' outputs; see `encode`.
        token_type_ids: [batch, sequence]; zeros by default.
        position_mask: the tokens that images replace, [batch, sequence]; by default the placeholder tokens.

    Returns:
        `inputs_embeds` [batch, prefix + sequence, hidden size] and, if they are decoder inputs, the token types
        [batch, prefix + sequence], 1 for the prefix, `deepstack_embeds` [layers, batch, sequence, hidden size],
        `per_layer_inputs` [batch, sequence, layers, size], and `cross_attention_states` [batch, embeddings, hidden
        size].

    Raises:
        OptionError: the number of placeholder tokens differs from the number of embeddings, or the tokens are
            embeddings, of which none is a placeholder.
    """
    decoder = directory.graph("decoder_model_merged").inputs
    is_embedded = tokens.dtype.kind == "f"
    found = {} if is_embedded else directory.graph(EMBEDDING).run({"input_ids": tokens})
    others = {name: to_array(value) for name, value in found.items()}
    embeds = others.pop(EMBEDS, tokens)
    if is_embedded and PER_LAYER in decoder:
        raise OptionError(f"the decoder also takes {PER_LAYER}, which are computed from token ids: pass input_ids")
    deepstack = _empty_deepstack(decoder.get("deepstack_embeds"), embeds)
    for item in features:
        if item.modality.merge != "replace":
            continue
        token = item.modality.placeholder_token_id
        is_marked = token is None and position_mask is not None
        if is_embedded and not is_marked:
            raise OptionError(
                f"{item.modality.input} is passed with {EMBEDS}, which have no placeholder tokens: pass input_ids, or "
                f"embeddings into which {item.modality.output} are merged"
            )
        placeholders = np.asarray(position_mask if is_marked else tokens == token, dtype=bool)
        embeds = merge_embeddings(embeds, item.embeddings, placeholders)
        if deepstack is not None and item.deepstack is not None:
            deepstack[:, placeholders] = item.deepstack
    zeros = np.zeros(tokens.shape[:2], dtype=np.int64)
    types = zeros if token_type_ids is None else token_type_ids
    for item in features:
        if item.modality.merge == "prefix":
            prefix = _per_sequence(item, embeds)
            embeds = np.concatenate([prefix, embeds], axis=1)
            types = np.concatenate([np.ones(prefix.shape[:2], types.dtype), types], axis=1)
    feed = {**others, EMBEDS: embeds}
    for item in features:
        if item.modality.merge == "cross-attention":
            feed[STATES] = _per_sequence(item, embeds)
    feed |= {name: types for name in TOKEN_TYPES if name in decoder}
    if POSITION_MASK in decoder:
        feed[POSITION_MASK] = zeros if position_mask is None else position_mask
    return feed if deepstack is None else {**feed, "deepstack_embeds": deepstack}


def _empty_deepstack(spec: TensorSpec | None, embeds: NDArray[Any]) -> NDArray[Any] | None:
    return None if spec is None else np.zeros((int(spec.axes[0]), *embeds.shape), embeds.dtype)


def _per_sequence(features: EncoderFeatures, embeds: NDArray[Any]) -> NDArray[Any]:
    """Return the embeddings as [batch, embeddings of each sequence, hidden size]."""
    batch_size, _, size = embeds.shape
    if len(features.embeddings) % batch_size:
        raise OptionError(
            f"{features.modality.output} has {len(features.embeddings)} embeddings, which can't be divided among "
            f"{batch_size} sequences: pass one image for each sequence"
        )
    return features.embeddings.reshape(batch_size, -1, size).astype(embeds.dtype, copy=False)


def repeat_features(
    features: Sequence[EncoderFeatures],
    input_ids: NDArray[Any],
    repeats: int,
    position_mask: NDArray[Any] | None = None,
) -> tuple[EncoderFeatures, ...]:
    """Repeat the encoders' outputs as `generate` repeats sequences (`repeat_interleave`).

    Args:
        features: the encoders' outputs; see `encode`.
        input_ids: the sequences before they are repeated, [batch, sequence].
        repeats: number of copies of each sequence.
        position_mask: the tokens that images replace, [batch, sequence]; by default the placeholder tokens.

    Raises:
        OptionError: the number of placeholder tokens differs from the number of embeddings.
    """
    repeated = []
    for item in features:
        if item.modality.merge in ("prefix", "cross-attention"):
            counts = np.full(len(input_ids), len(item.embeddings) // len(input_ids))
        else:
            token = item.modality.placeholder_token_id
            is_marked = token is None and position_mask is not None
            counts = np.asarray(position_mask if is_marked else input_ids == token, dtype=bool).sum(-1)
        _check_count(int(counts.sum()), len(item.embeddings))
        ends = np.cumsum(counts)
        indices = [np.tile(np.arange(end - count, end), repeats) for count, end in zip(counts, ends, strict=True)]
        order = np.concatenate(indices)
        deepstack = None if item.deepstack is None else item.deepstack[:, order]
        repeated.append(EncoderFeatures(item.modality, item.embeddings[order], deepstack))
    return tuple(repeated)


def merge_embeddings(embeds: NDArray[Any], features: NDArray[Any], placeholders: NDArray[np.bool_]) -> NDArray[Any]:
    """Replace the embeddings of placeholder tokens by an encoder's, in order.

    Args:
        embeds: token embeddings, [batch, sequence, hidden size].
        features: the encoder's output, [placeholder tokens, hidden size].
        placeholders: which tokens are placeholders, [batch, sequence].

    Raises:
        OptionError: the number of placeholder tokens differs from the number of embeddings.
    """
    _check_count(int(placeholders.sum()), len(features))
    merged = embeds.copy()
    merged[placeholders] = features
    return merged


def _check_count(placeholders: int, embeddings: int) -> None:
    if placeholders != embeddings:
        raise OptionError(
            f"the prompt has {placeholders} placeholder tokens but the encoder returned {embeddings} embeddings; build "
            "both with the same processor"
        )


def encoder_inputs(graphs: list[Graph]) -> frozenset[str]:
    """Return the names of all inputs of the graphs."""
    return frozenset(name for graph in graphs for name in graph.inputs)


def _pixel_mask(tiles: NDArray[Any]) -> NDArray[np.bool_]:
    """Return a mask of tiles, [images, tiles, channels, height, width], without padding."""
    return np.ones((*tiles.shape[:2], *tiles.shape[3:]), dtype=bool)


def _one_image_each(images: NDArray[Any]) -> NDArray[np.int64]:
    """Return the number of images of each sequence, 1."""
    return np.ones(len(images), dtype=np.int64)


def _no_crops(images: NDArray[Any]) -> NDArray[np.int64]:
    """Return the number of crops of each image, 0."""
    return np.zeros(len(images), dtype=np.int64)


def _single_crops(images: NDArray[Any]) -> NDArray[np.int64]:
    """Return the columns and rows of crops of each image, as of an image without crops."""
    return np.ones((len(images), 2), dtype=np.int64)


def _mel_mask(features: NDArray[Any]) -> NDArray[np.int64]:
    """Return a mask of features, [batch, mel bins, frames], without padding."""
    return np.ones((len(features), features.shape[-1]), dtype=np.int64)


def _frame_mask(features: NDArray[Any]) -> NDArray[np.bool_]:
    """Return a mask of features, [batch, frames, mel bins], without padding."""
    return np.ones(features.shape[:2], dtype=bool)


_DEFAULTS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "pixel_attention_mask": _pixel_mask,
    "batch_num_images": _one_image_each,
    "num_local_patches": _no_crops,
    "patches_grid": _single_crops,
    "feature_attention_mask": _mel_mask,
    "audio_attention_mask": _frame_mask,
}
"""Optional encoder inputs, to the function that computes their default from the main input."""
