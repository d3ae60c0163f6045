"""Models without torch: arrays in and out, and texts that are generated greedily or by sampling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.description.components import SPLIT_ENCODERS
from onnxport.errors import OptionError, UnsupportedError
from onnxport.runtime.cross_attention import MASK
from onnxport.runtime.decoder import Decoder, States
from onnxport.runtime.directory import Directory
from onnxport.runtime.graph import Graph, to_array
from onnxport.runtime.modalities import embed, encode
from onnxport.runtime.sampling import Chooser, Sampling, Tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

Arrays = dict[str, "NDArray[Any]"]

_ENCODER, _DECODER, _ONLY = "encoder_model", "decoder_model_merged", "model"
_TEXTS, _TOKENS = "text_model", "embed_tokens"
_TOKEN_TYPES = "token_type_ids"
_GRID_AXES = 3
"""Axes of `position_ids` where a token has several: in time, in height, in width."""


class LightModel:
    """Run an exported directory with nothing but numpy and ONNX Runtime.

    Args:
        directory: what an export wrote.
    """

    def __init__(self, directory: Directory) -> None:
        self.directory = directory

    def __call__(self, **inputs: Any) -> Arrays:
        """Run the graph once, or of graphs for texts, pictures and sounds each whose main input is given.

        Args:
            **inputs: arrays by the names of the graph's inputs; those that it lacks are left out, and masks, types,
                positions and caches that aren't given are those of plain texts.

        Returns:
            Its outputs by name.

        Raises:
            UnsupportedError: the directory holds several graphs that are no such.
            OptionError: an input is missing or doesn't fit.
        """
        if self.directory.has(_TEXTS):
            return run_split_encoders(self.directory, inputs)
        if not self.directory.has(_ONLY):
            names = ", ".join(item.name for item in self.directory.manifest.components)
            raise UnsupportedError(f"{self.directory.path} holds several graphs ({names}); call generate")
        graph = self.directory.graph(_ONLY)
        return {name: to_array(value) for name, value in graph.run(completed(graph, inputs)).items()}

    @property
    def can_generate(self) -> bool:
        """Whether the directory was exported for generating."""
        if self.directory.has(_DECODER):
            return True
        return self.directory.task == "text-generation" and self.directory.has(_ONLY)

    def generate(self, inputs: Mapping[str, Any] | None = None, **settings: Any) -> NDArray[Any]:
        """Generate texts.

        Args:
            inputs: what the tokenizer or processor made; `input_ids` and `attention_mask` for texts, padded on the
                left.
            **settings: see `Sampling`; what isn't given is read from the directory's `generation_config.json`.

        Returns:
            Tokens, [batch, length]: with the prompt for a decoder, with the first token for an encoder-decoder.

        Raises:
            OptionError: a setting is unknown or out of range, or an input is missing.
            UnsupportedError: the directory doesn't generate.
        """
        start, tokens = self.stream(inputs or {}, **settings)
        return np.concatenate([start, *(step[:, None] for step in tokens)], axis=1)

    def stream(self, inputs: Mapping[str, Any], **settings: Any) -> tuple[NDArray[Any], Tokens]:
        """Generate texts token by token; see `generate`.

        Returns:
            The tokens that they start with, [batch, length], and an iterator over the tokens of each step, [batch].
        """
        if not self.can_generate:
            raise UnsupportedError(
                f"{self.directory.path} was exported for {self.directory.task}: it generates no text"
            )
        values = {**self.directory.config, **self.directory.generation}
        how = Sampling.of({**values, "eos_token_id": self.directory.setting("eos_token_id")}, settings)
        arrays = {name: np.asarray(value) for name, value in inputs.items()}
        decoder = Decoder(self.directory.graph(_DECODER if self.directory.has(_DECODER) else _ONLY))
        fixed: Arrays = {}
        if self.directory.has(_ENCODER):
            start, fixed = self._encoded(arrays)
        elif "input_ids" in arrays:
            start = arrays["input_ids"]
        else:
            raise OptionError("generate needs input_ids, the tokens of a text")
        if start.ndim != 2 or not start.size:
            raise OptionError(f"input_ids have the shape {list(start.shape)}; give [batch, length], at least one token")
        mask = arrays.get("attention_mask", np.ones_like(start)) if not fixed else None
        take = self._embedding(decoder, arrays) if self.directory.has(_TOKENS) else _as_they_are
        return start, _steps(decoder, (start, mask, fixed), take, how)

    def _embedding(self, decoder: Decoder, arrays: Arrays) -> Take:
        """Return what makes a decoder's inputs of tokens; the first have room for what was seen or heard."""
        place = decoder.graph.inputs.get("position_ids")
        if place is not None and len(place.axes) == _GRID_AXES:
            raise UnsupportedError(
                f"{self.directory.path}: where the patches of its pictures stand is counted by Transformers; install "
                "torch and transformers (onnxport[export]) to generate with it"
            )
        encoded = encode(self.directory, self.directory.modalities, arrays)
        token_types = arrays.get(_TOKEN_TYPES)

        def take(tokens: NDArray[Any]) -> Arrays:
            nonlocal encoded, token_types
            if token_types is not None:  # those of generated tokens are zero
                token_types = np.pad(token_types, ((0, 0), (0, tokens.shape[1] - token_types.shape[1])))
            feed = embed(self.directory, tokens, encoded, token_types)
            if decoder.states:
                encoded, token_types = (), None
            return {**feed, MASK: arrays[MASK]} if MASK in arrays else feed

        return take

    def _encoded(self, arrays: Arrays) -> tuple[NDArray[Any], Arrays]:
        """Run the encoder; return the tokens that the decoder starts from and what it takes at every step."""
        graph = self.directory.graph(_ENCODER)
        fixed = encoded(graph, arrays, self.directory.graph(_DECODER))
        batch = len(fixed["encoder_hidden_states"])
        given = arrays.get("decoder_input_ids")
        return given if given is not None else np.full((batch, 1), self.directory.first_token, dtype=np.int64), fixed


def encoded(encoder: Graph, inputs: Mapping[str, Any], decoder: Graph) -> Arrays:
    """Run an encoder.

    Args:
        encoder: its graph.
        inputs: arrays by name.
        decoder: the graph that listens.

    Returns:
        What the decoder takes at every step: the states and, where it takes one, their mask, which is the encoder's own
        or that of its input.
    """
    full = completed(encoder, inputs)
    said = {name: to_array(value) for name, value in encoder.run(full).items()}
    heard = {"encoder_hidden_states": said["last_hidden_state"]}
    if _MASK in decoder.inputs:
        heard[_MASK] = said[_MASK] if _MASK in said else full["attention_mask"]
    return heard


_MASK = "encoder_attention_mask"


def run_split_encoders(directory: Directory, inputs: Mapping[str, Any]) -> Arrays:
    """Run each graph whose main input is given.

    Args:
        directory: holds graphs for texts, and for pictures or sounds.
        inputs: arrays by name.

    Returns:
        `text_embeds`, `image_embeds`, `audio_embeds`, [batch, size] each.

    Raises:
        OptionError: no main input is given, or something doesn't fit.
    """
    parts = {name: part for name, part in SPLIT_ENCODERS.items() if directory.has(name)}
    said: Arrays = {}
    for name, part in parts.items():
        if inputs.get(part.input) is not None:
            graph = directory.graph(name)
            (states,) = graph.run(completed(graph, inputs)).values()
            said[part.output] = to_array(states)
    if not said:
        raise OptionError(f"give one of {', '.join(part.input for part in parts.values())}, or several")
    return said


def completed(graph: Graph, inputs: Mapping[str, Any]) -> Arrays:
    """Return the inputs that a graph takes, with plain ones for those that aren't given.

    Args:
        graph: the graph.
        inputs: arrays by name; others than the graph's are left out.

    Returns:
        The inputs, with masks of ones (of zeros for global attention), types of zeros, positions in order and caches
        of nothing.
    """
    full = {name: value for name, value in inputs.items() if name in graph.inputs and value is not None}
    first = next(iter(full.values()), None)
    if first is None:
        return {}
    ids = full.get("input_ids", first)
    for name, place in graph.inputs.items():
        if name in full:
            continue
        if name == "global_attention_mask":
            full[name] = np.zeros(ids.shape, dtype=place.dtype)
        elif name.endswith("attention_mask"):
            full[name] = np.ones(ids.shape[: len(place.axes)], dtype=place.dtype)
        elif name == "pixel_mask":
            batch, _, *size = np.shape(first)
            full[name] = np.ones((batch, *size), dtype=place.dtype)
        elif name == "token_type_ids":
            full[name] = np.zeros(ids.shape, dtype=place.dtype)
        elif name == "position_ids":
            full[name] = np.broadcast_to(np.arange(ids.shape[-1]), ids.shape)
        elif name.startswith("past_"):
            full[name] = place.empty(len(first))
    return full


Take = Callable[["NDArray[Any]"], Arrays]
"""Makes what a decoder takes of tokens, [batch, tokens]."""


def _as_they_are(tokens: NDArray[Any]) -> Arrays:
    return {"input_ids": tokens}


def _steps(
    decoder: Decoder, given: tuple[NDArray[Any], NDArray[Any] | None, Arrays], take: Take, how: Sampling
) -> Tokens:
    """Yield the tokens of one step after another."""
    start, mask, fixed = given
    chooser, tokens = Chooser(how, start), start
    states: States = decoder.begin(len(start))
    for _ in range(how.max_new_tokens):
        feed = {**take(tokens), **(fixed if mask is None else {"attention_mask": mask})}
        if not decoder.states:  # without a cache, everything is computed again at every step
            states = decoder.begin(len(start))
        prefix = feed["inputs_embeds"].shape[1] - tokens.shape[1] if "inputs_embeds" in feed else 0
        logits = decoder.step(feed, states, prefix)
        chosen = chooser.choose(logits[:, -1])
        yield chosen
        if chooser.done:
            return
        tokens = chosen[:, None] if decoder.states else np.concatenate([tokens, chosen[:, None]], axis=1)
        if mask is not None:
            mask = np.concatenate([mask, np.ones_like(mask[:, :1])], axis=1)
