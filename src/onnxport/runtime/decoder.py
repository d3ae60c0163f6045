"""Run a decoder step by step: token ids in, logits out, and a cache that stays in ONNX Runtime between steps."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.description.axes import present_name
from onnxport.errors import MissingInputError
from onnxport.runtime.cross_attention import cross_attention_inputs
from onnxport.runtime.graph import Feed, Graph, to_array

if TYPE_CHECKING:
    import onnxruntime
    from numpy.typing import NDArray

_CROSS_ATTENTION = ".encoder."
"""Part of the names of cross-attention keys and values, which are computed in the first step and don't change."""
MROPE_RANK = 3
"""Rank of `position_ids` in models with multimodal rotary embeddings: [3, batch, tokens], for time, height, width."""
_LENGTH_AXIS = 2
"""Sequence axis of keys and values."""
_LEAST_ROOM = 128
"""Least number of positions for which a cache gets room beyond those that it needs."""


@dataclass
class DecoderCache:
    """Hold a decoder's cache: keys and values of attention layers, states of recurrent layers.

    Attributes:
        tensors: cache input name to its value in ONNX Runtime (an array before the first step).
        batch_size: number of sequences.
        length: number of positions that the cache covers.
        prefix: number of positions before the first token, for image embeddings (GIT).
        capacity: number of positions that `tensors` have room for, if a step writes into them; else None.
    """

    tensors: dict[str, NDArray[Any] | onnxruntime.OrtValue]
    batch_size: int
    length: int = 0
    prefix: int = 0
    capacity: int | None = None

    def reserve(self, length: int, sequence_axes: Mapping[str, int]) -> None:
        """Make room in the cache for at least `length` positions.

        Args:
            length: number of positions.
            sequence_axes: cache input name to its sequence axis.
        """
        if self.capacity is not None and length <= self.capacity:
            return
        self.capacity = length + max(length // 2, _LEAST_ROOM)
        for name, axis in sequence_axes.items():
            value = self.tensors[name]
            array = value if isinstance(value, np.ndarray) else to_array(value)
            shape = list(array.shape)
            shape[axis] = self.capacity
            grown = np.zeros(shape, dtype=array.dtype)
            cached = (slice(None),) * axis + (slice(self.length),)
            grown[cached] = array[cached]
            self.tensors[name] = _ort_value(grown)

    def reorder(self, indices: NDArray[np.integer[Any]]) -> None:
        """Select sequences by their batch index, in this order; an index may be repeated."""
        for name, value in self.tensors.items():
            array = value if isinstance(value, np.ndarray) else to_array(value)
            self.tensors[name] = _ort_value(array[indices])
        self.batch_size = len(indices)

    def crop(self, count: int, sequence_axes: Mapping[str, int]) -> None:
        """Remove the last tokens.

        Args:
            count: number of tokens to remove.
            sequence_axes: cache input name to its sequence axis; other tensors are unchanged.
        """
        for name, axis in sequence_axes.items() if self.capacity is None else ():
            array = to_array(self.tensors[name])
            cropped = np.take(array, range(array.shape[axis] - count), axis=axis)
            self.tensors[name] = _ort_value(cropped)
        self.length -= count


def _ort_value(array: NDArray[Any]) -> onnxruntime.OrtValue:
    import onnxruntime

    return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


@dataclass(frozen=True)
class Decoder:
    """Run a decoder's graph step by step.

    Attributes:
        graph: its inputs are `input_ids` or `inputs_embeds`, and optionally masks, position ids, an encoder's hidden
            states and a cache.
        reread_length: number of tokens beyond which all are read again, as the manifest has it; 0 for none.
        cache_outputs: cache input name to the output that becomes that input in the next step.
        sequence_axes: cache input name to its sequence axis, for those that grow with each token.
    """

    graph: Graph
    reread_length: int = 0
    cache_outputs: Mapping[str, str] = field(init=False)
    sequence_axes: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        pairs = {name: present_name(name) for name in self.graph.inputs if name.startswith("past_")}
        outputs = {name: output for name, output in pairs.items() if output in self.graph.outputs}
        object.__setattr__(self, "cache_outputs", outputs)
        sequence_axes = {}
        for name in outputs:
            for axis, label in enumerate(self.graph.inputs[name].axes):
                if isinstance(label, str) and "past" in label and _CROSS_ATTENTION not in name:
                    sequence_axes[name] = axis
        object.__setattr__(self, "sequence_axes", sequence_axes)

    @property
    def has_cache(self) -> bool:
        """Whether the graph has a cache as inputs and outputs."""
        return bool(self.cache_outputs)

    @property
    def result(self) -> str:
        """Name of the output for each token: `logits`; of a decoder without a head, its first output."""
        return "logits" if "logits" in self.graph.outputs else next(iter(self.graph.outputs))

    @property
    def others(self) -> tuple[str, ...]:
        """Names of the outputs that are neither `result` nor the cache, such as hidden states and attentions."""
        known = {self.result, *self.cache_outputs.values()}
        return tuple(name for name in self.graph.outputs if name not in known)

    @property
    def token_inputs(self) -> tuple[str, ...]:
        """Names of further inputs of each token, besides its id and position: integers, [batch, tokens]."""
        tokens = self.graph.inputs.get("input_ids")
        if tokens is None:
            return ()
        same = (
            name for name, spec in self.graph.inputs.items() if (spec.axes, spec.dtype) == (tokens.axes, tokens.dtype)
        )
        return tuple(name for name in same if name not in ("input_ids", "position_ids"))

    @property
    def can_crop(self) -> bool:
        """Whether tokens can be removed: all cache entries but cross-attention's have a sequence axis."""
        return all(name in self.sequence_axes or _CROSS_ATTENTION in name for name in self.cache_outputs)

    def empty_cache(self, batch_size: int) -> DecoderCache:
        """Return the cache before the first token."""
        return DecoderCache(
            {name: self.graph.inputs[name].empty(batch_size) for name in self.cache_outputs}, batch_size
        )

    def is_stale(self, cache: DecoderCache, length: int) -> bool:
        """Return whether the next step must read all tokens again, as their rotary embeddings have changed.

        Args:
            cache: the cache.
            length: number of tokens, those of the next step included.
        """
        return 0 < cache.length <= self.reread_length < length

    def step(self, feed: Feed, cache: DecoderCache, prefix: int = 0) -> NDArray[Any]:
        """Run one step and update the cache; see `run`.

        Returns:
            The logits, [batch, tokens, vocabulary]; the first output of a decoder without logits.
        """
        return self.run(feed, cache, prefix)[self.result]

    def run(
        self, feed: Feed, cache: DecoderCache, prefix: int = 0, others: Collection[str] = ()
    ) -> dict[str, NDArray[Any]]:
        """Run one step and update the cache.

        Args:
            feed: the graph's other inputs; `attention_mask` covers earlier tokens, too. A missing mask and missing
                position ids are filled in as for sequences without padding, missing `token_inputs` as zeros.
            cache: the cache of earlier steps; it is updated in place.
            prefix: number of embeddings in this step that come before its first token; the mask and the position ids
                in `feed` don't include them.
            others: names of further outputs.

        Returns:
            `result` and the further outputs by name.

        Raises:
            MissingInputError: there are no tokens.
        """
        tokens = self._count(feed)
        length = cache.length + tokens
        cache.prefix += prefix
        inputs: dict[str, Any] = {name: value for name, value in feed.items() if name in self.graph.inputs}
        inputs |= cross_attention_inputs(self.graph, feed, _cross_attention_length(cache), cache.length)
        no_padding = np.ones((cache.batch_size, length - cache.prefix), dtype=np.int64)
        if "attention_mask" in self.graph.inputs and inputs.get("attention_mask") is None:
            inputs["attention_mask"] = no_padding
        if "position_ids" in self.graph.inputs and inputs.get("position_ids") is None:
            mask = inputs.get("attention_mask")
            counted = position_ids(no_padding if mask is None else mask, tokens - prefix)
            axes = self.graph.inputs["position_ids"].axes
            is_mrope = len(axes) == MROPE_RANK  # the same position for each of time, height and width in text
            inputs["position_ids"] = np.broadcast_to(counted, (int(axes[0]), *counted.shape)) if is_mrope else counted
        for name in self.token_inputs:
            inputs.setdefault(name, np.zeros((cache.batch_size, tokens), dtype=self.graph.inputs[name].dtype))
        if cache.prefix:
            inputs |= _padded(inputs, "attention_mask", cache.prefix, 1) | _padded(inputs, "position_ids", prefix, 0)
        return self.advance(inputs, cache, tokens, (self.result, *others))

    def _count(self, feed: Feed) -> int:
        """Return the number of tokens of a step.

        Raises:
            MissingInputError: there are none.
        """
        for name in ("input_ids", "inputs_embeds", "output_sequence"):  # the last of SpeechT5: frames
            if name in feed:
                return int(np.shape(feed[name])[1])
        raise MissingInputError(
            f"the tokens for {self.graph.file} are missing: pass decoder_input_ids of an encoder-decoder, input_ids "
            "otherwise, or call generate"
        )

    def advance(
        self, inputs: Feed, cache: DecoderCache, tokens: int, returned: Collection[str]
    ) -> dict[str, NDArray[Any]]:
        """Run the graph once and update the cache.

        Args:
            inputs: all inputs of the graph but the cache.
            cache: the cache of earlier steps; it is updated in place.
            tokens: number of positions that this step adds to it.
            returned: names of the outputs to return.

        Returns:
            The outputs by name.
        """
        is_first = cache.length == 0
        updated = {name: out for name, out in self.cache_outputs.items() if is_first or _CROSS_ATTENTION not in name}
        written: dict[str, Any] = {}
        if self.graph.shares_cache:
            cache.reserve(cache.length + tokens, self.sequence_axes)
            written = {updated[name]: cache.tensors[name] for name in self.sequence_axes}
        outputs = self.graph.run(
            {**inputs, **cache.tensors},
            [*returned, *updated.values()],
            on_device=updated.values(),
            into=written,
        )
        grown = {name: outputs[output] for name, output in updated.items() if output in outputs}
        cache.tensors.update(grown)
        cache.length += tokens
        return {name: to_array(outputs[name]) for name in returned}


def _cross_attention_length(cache: DecoderCache) -> int:
    """Return the number of encoder embeddings in the cache."""
    value = next((value for name, value in cache.tensors.items() if _CROSS_ATTENTION in name), None)
    if value is None:
        return 0
    return int((value.shape if isinstance(value, np.ndarray) else value.shape())[_LENGTH_AXIS])


def _padded(inputs: Mapping[str, Any], name: str, count: int, value: int) -> dict[str, NDArray[Any]]:
    """Return an input, [batch, sequence], padded on the left with `count` values; empty if `inputs` lacks it."""
    if name not in inputs:
        return {}
    return {name: np.pad(np.asarray(inputs[name]), ((0, 0), (count, 0)), constant_values=value)}


def position_ids(attention_mask: NDArray[Any], count: int) -> NDArray[Any]:
    """Return the position ids of the last tokens: the number of unmasked tokens before each.

    Args:
        attention_mask: [batch, length], 0 for padding.
        count: number of tokens.

    Returns:
        Position ids, [batch, count]; 0 for padding.
    """
    positions = np.cumsum(attention_mask, axis=-1) - 1
    return np.where(attention_mask == 0, 0, positions)[:, -count:]
