"""Run the encoders of images and audio, and merge their outputs into the decoder's token embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from onnxport.architectures.phi4_multimodal import LONGEST
from onnxport.description.components import MODALITY_ENCODERS
from onnxport.errors import OptionError, UnsupportedError
from onnxport.runtime.graph import Graph, to_array

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedConfig

    from onnxport.runtime.directory import Directory

Config: TypeAlias = "PreTrainedConfig | SimpleNamespace"
"""A model's configuration: Transformers' object, or the values of `config.json` as attributes."""
Inputs = Mapping[str, "NDArray[Any] | None"]
"""A model's inputs by name; None for those that weren't passed."""

KINDS = (
    *("pixel_values", "input_features", "image_pixel_values", "audio_input_features", "audio_input_ids"),
    "flattened_patches",
)
"""Main inputs of encoders: a graph runs only if its main input was passed."""
ENCODED = "encoder_features"
"""Argument of `forward` with the encoders' outputs, where they were computed before the first step."""


@dataclass(frozen=True)
class EncoderFeatures:
    """Hold an encoder's output for all images or audio clips of a batch, concatenated.

    Attributes:
        embeddings: one row for each placeholder token, [tokens, hidden size].
        deepstack: hidden states that the decoder's first layers add at the placeholder tokens, [layers, tokens, hidden
            size]; None for encoders without.
    """

    embeddings: NDArray[Any]
    deepstack: NDArray[Any] | None = None


def encoder_feed(graph: Graph, inputs: Inputs) -> dict[str, NDArray[Any]] | None:
    """Select an encoder's inputs from a model's, and fill in the masks and counts that are missing.

    Args:
        graph: the encoder.
        inputs: the model's inputs.

    Returns:
        The encoder's inputs; None if its main input wasn't passed.
    """
    feed = {name: value for name in graph.inputs if (value := inputs.get(name)) is not None}
    main = next((feed[name] for name in KINDS if name in feed), None)
    if main is None:
        return None
    return {name: make(main) for name, make in _DEFAULTS.items() if name in graph.inputs} | feed


def encode(directory: Directory, config: Config, inputs: Inputs) -> dict[int, EncoderFeatures]:
    """Run the encoders whose main input was passed.

    Args:
        directory: the exported directory.
        config: the model's configuration.
        inputs: the model's inputs.

    Returns:
        Placeholder token id to the encoder's output.

    Raises:
        OptionError: an audio clip is too long, or an input has the wrong shape.
    """
    check_lengths(config, inputs)
    features = {}
    for component, part in MODALITY_ENCODERS.items():
        if directory.has(component):
            graph = directory.graph(component)
            if feed := encoder_feed(graph, inputs):
                outputs = {name: to_array(value) for name, value in graph.run(feed).items()}
                features[placeholder_token_id(config, part.token)] = select_features(outputs, part.output, inputs)
    return features


def embed_and_merge(
    directory: Directory, token_ids: NDArray[Any], features: Mapping[int, EncoderFeatures]
) -> dict[str, NDArray[Any]]:
    """Embed tokens, and replace the embeddings of placeholder tokens by the encoders' outputs.

    Args:
        directory: the exported directory.
        token_ids: [batch, tokens].
        features: placeholder token id to the encoder's output; see `encode`.

    Returns:
        `inputs_embeds` [batch, tokens, hidden size] and, if the decoder takes it, `deepstack_embeds` [layers, batch,
        tokens, hidden size].

    Raises:
        OptionError: the number of placeholder tokens differs from the number of embeddings.
    """
    embeds = to_array(directory.graph("embed_tokens").run({"input_ids": token_ids})["inputs_embeds"])
    spec = directory.graph("decoder_model_merged").inputs.get("deepstack_embeds")
    deepstack = None if spec is None else np.zeros((int(spec.axes[0]), *embeds.shape), embeds.dtype)
    for token_id, output in features.items():
        placeholders = token_ids == token_id
        embeds = merge_embeddings(embeds, output.embeddings, placeholders)
        if deepstack is not None and output.deepstack is not None:
            deepstack[:, placeholders] = output.deepstack
    return {"inputs_embeds": embeds} | ({} if deepstack is None else {"deepstack_embeds": deepstack})


def check_lengths(config: Config, inputs: Inputs) -> None:
    """Check that audio isn't longer than Phi-4-multimodal's encoder was exported for.

    Raises:
        OptionError: a clip is longer.
    """
    features = inputs.get("audio_input_features")
    if features is None or features.shape[1] <= (limit := LONGEST * config.audio_config.time_reduction):
        return
    raise OptionError(
        f"audio_input_features has {features.shape[1]} frames, and the exported graph takes at most {limit}: cut the "
        "audio into shorter clips"
    )


def placeholder_token_id(config: Config, name: str) -> int:
    """Return the id of the placeholder token of a modality, from the configuration or that of the encoder.

    Args:
        config: the model's configuration.
        name: `image_token_id` or `audio_token_id`.

    Raises:
        UnsupportedError: there is none, as in Voxtral Realtime, which adds audio embeddings to all token embeddings.
    """
    names = (name, name.replace("_id", "_index"))  # older configurations are written with the latter
    sources = (config, getattr(config, _ENCODER_CONFIGS[name], None))
    candidates = [(source, key) for source in sources for key in names]
    candidates += [(config, key.replace("image", "video")) for key in names]  # InstructBLIP-Video
    found = next((getattr(source, key) for source, key in candidates if hasattr(source, key)), None)
    if found is None:
        raise UnsupportedError(
            f"config.json has no {name}, so that the encoder's output can't be merged into the token embeddings: run "
            "the graphs one by one"
        )
    return int(found)


_ENCODER_CONFIGS = {"image_token_id": "vision_config", "audio_token_id": "audio_config"}


def select_features(outputs: Mapping[str, NDArray[Any]], name: str, inputs: Inputs) -> EncoderFeatures:
    """Select what the decoder takes from an encoder's outputs.

    Args:
        outputs: the encoder's outputs by name. Phi-4-multimodal's audio encoder has a second one, for prompts that also
            contain images.
        name: the output to select otherwise.
        inputs: the model's inputs.
    """
    vision_mode = f"{name}_vision_mode"
    chosen = vision_mode if vision_mode in outputs and inputs.get("image_pixel_values") is not None else name
    hidden_states = outputs[chosen]
    return EncoderFeatures(hidden_states.reshape(-1, hidden_states.shape[-1]), outputs.get("deepstack_features"))


def repeat_features(
    features: Mapping[int, EncoderFeatures], token_ids: NDArray[Any], repeats: int
) -> dict[int, EncoderFeatures]:
    """Repeat the encoders' outputs as `generate` repeats sequences: each sequence's rows together.

    Args:
        features: placeholder token id to the encoder's output.
        token_ids: the sequences before they are repeated, [batch, tokens].
        repeats: number of copies of each sequence.

    Raises:
        OptionError: the number of placeholder tokens differs from the number of embeddings.
    """
    repeated = {}
    for token_id, output in features.items():
        counts = (token_ids == token_id).sum(-1)
        _check_placeholders(int(counts.sum()), len(output.embeddings))
        ends = np.cumsum(counts)
        rows = [np.tile(np.arange(end - count, end), repeats) for count, end in zip(counts, ends, strict=True)]
        order = np.concatenate(rows)
        deepstack = None if output.deepstack is None else output.deepstack[:, order]
        repeated[token_id] = EncoderFeatures(output.embeddings[order], deepstack)
    return repeated


def merge_embeddings(embeds: NDArray[Any], features: NDArray[Any], placeholders: NDArray[np.bool_]) -> NDArray[Any]:
    """Replace the embeddings of placeholder tokens by an encoder's output, in order.

    Args:
        embeds: token embeddings, [batch, tokens, hidden size].
        features: the encoder's output, [placeholder tokens, hidden size].
        placeholders: which tokens are placeholders, [batch, tokens].

    Raises:
        OptionError: the number of placeholder tokens differs from the number of embeddings.
    """
    _check_placeholders(int(placeholders.sum()), len(features))
    merged = embeds.copy()
    merged[placeholders] = features
    return merged


def _check_placeholders(tokens: int, embeddings: int) -> None:
    if tokens != embeddings:
        raise OptionError(
            f"the prompt has {tokens} placeholder tokens but the encoder returned {embeddings} embeddings; build both "
            "with the same processor"
        )


def encoder_inputs(graphs: list[Graph]) -> frozenset[str]:
    """Return the names of all inputs of the encoders."""
    return frozenset(name for graph in graphs for name in graph.inputs)


def _pixel_mask(pixel_values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return a mask without padding for tiles, [images, tiles, channels, height, width]."""
    return np.ones((*pixel_values.shape[:2], *pixel_values.shape[3:]), dtype=bool)


def _one_image_each(pixel_values: NDArray[Any]) -> NDArray[np.int64]:
    """Return the number of images of each sequence where each has one."""
    return np.ones(len(pixel_values), dtype=np.int64)


def _mel_mask(features: NDArray[Any]) -> NDArray[np.int64]:
    """Return a mask without padding for mel features, [clips, mel bins, frames]."""
    return np.ones((len(features), features.shape[-1]), dtype=np.int64)


def _frame_mask(features: NDArray[Any]) -> NDArray[np.bool_]:
    """Return a mask without padding for frames, [clips, frames, features]."""
    return np.ones(features.shape[:2], dtype=bool)


_DEFAULTS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "pixel_attention_mask": _pixel_mask,
    "batch_num_images": _one_image_each,
    "feature_attention_mask": _mel_mask,
    "audio_attention_mask": _frame_mask,
}
"""Inputs of encoders that are filled in if they weren't passed, to a function of the main input."""
