"""One step of a decoder after another: tokens in, logits out, and states that stay in ONNX Runtime in between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.runtime.cross_attention import cross_attention_inputs
from onnxport.runtime.graph import Graph, to_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CROSS = ".encoder."
"""Part of the names of the keys and values that are made of an encoder's states: once made, they stay as they are."""


_LENGTH_AXIS = 2
"""Axis of keys and values that has their number."""


@dataclass
class States:
    """Hold what a decoder remembers.

    Attributes:
        values: input name to a value of ONNX Runtime (an array before the first step).
        batch: sequences.
        length: positions that each of them has had.
        prefix: positions before the first token, of an image's rows.
    """

    values: dict[str, Any]
    batch: int
    length: int = 0
    prefix: int = 0

    def select(self, rows: NDArray[Any]) -> None:
        """Keep these texts, in this order; one may come several times."""
        for name, value in self.values.items():
            array = value if isinstance(value, np.ndarray) else to_array(value)
            self.values[name] = _value(array[rows])
        self.batch = len(rows)

    def forget(self, count: int, growing: Mapping[str, int]) -> None:
        """Forget the last tokens.

        Args:
            count: how many.
            growing: names of the values that grow by each token to the axis that does.
        """
        for name, axis in growing.items():
            array = to_array(self.values[name])
            kept = np.take(array, range(array.shape[axis] - count), axis=axis)
            self.values[name] = _value(kept)
        self.length -= count


def _value(array: NDArray[Any]) -> Any:
    import onnxruntime

    return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


@dataclass(frozen=True)
class Decoder:
    """Run a decoder's graph step by step.

    Attributes:
        graph: takes `input_ids` or `inputs_embeds`, and may take masks, positions, an encoder's states and a cache.
        states: inputs that remember, to the outputs that they become in the next step.
        growing: those of them that grow by each token, to the axis that does.
    """

    graph: Graph
    states: Mapping[str, str] = field(init=False)
    growing: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        pairs = {name: _present(name) for name in self.graph.inputs if name.startswith("past_")}
        object.__setattr__(self, "states", {past: now for past, now in pairs.items() if now in self.graph.outputs})
        growing = {}
        for past in self.states:
            for axis, label in enumerate(self.graph.inputs[past].axes):
                if isinstance(label, str) and "past" in label and _CROSS not in past:
                    growing[past] = axis
        object.__setattr__(self, "growing", growing)

    @property
    def can_crop(self) -> bool:
        """Whether every state grows by each token, so that tokens can be forgotten again."""
        return all(name in self.growing or _CROSS in name for name in self.states)

    def _cross_length(self, states: States) -> int:
        """Return how many of an encoder's rows are in the cache."""
        return next((_length(value) for name, value in states.values.items() if _CROSS in name), 0)

    def begin(self, batch: int) -> States:
        """Return the states before the first token."""
        return States({name: self.graph.inputs[name].empty(batch) for name in self.states}, batch)

    def step(self, feed: Mapping[str, Any], states: States, prefix: int = 0) -> NDArray[Any]:
        """Take tokens, remember them, and return the logits, [batch, tokens, vocabulary].

        Args:
            feed: the graph's other inputs; `attention_mask` covers earlier tokens, too. A mask and positions that the
                graph takes and that aren't given are those of texts without padding.
            states: the cache; it is brought up to date.
            prefix: embeddings of this step that come before its first token; mask and positions are those of tokens.
        """
        first = states.length == 0
        tokens = feed["input_ids"] if "input_ids" in feed else feed["inputs_embeds"]
        length = states.length + tokens.shape[1]
        states.prefix += prefix
        full = {name: value for name, value in feed.items() if name in self.graph.inputs}
        full |= cross_attention_inputs(self.graph, feed, self._cross_length(states), states.length)
        counted = (states.batch, length - states.prefix)
        if "attention_mask" in self.graph.inputs and full.get("attention_mask") is None:
            full["attention_mask"] = np.ones(counted, dtype=np.int64)
        if "position_ids" in self.graph.inputs and full.get("position_ids") is None:
            full["position_ids"] = positions(full.get("attention_mask"), counted, tokens.shape[1] - prefix)
        if states.prefix:
            full |= _before(full, "attention_mask", states.prefix, 1) | _before(full, "position_ids", prefix, 0)
        new = {past: now for past, now in self.states.items() if first or _CROSS not in past}
        results = self.graph.run({**full, **states.values}, ["logits", *new.values()], stay=new.values())
        states.values.update({past: results[now] for past, now in new.items()})
        states.length = length
        return to_array(results["logits"])


def _length(value: Any) -> int:
    return int((value.shape if isinstance(value, np.ndarray) else value.shape())[_LENGTH_AXIS])


def _before(feed: Mapping[str, Any], name: str, count: int, value: int) -> dict[str, NDArray[Any]]:
    """Return an input of the feed, [batch, sequence], with as many equal values before it."""
    if name not in feed:
        return {}
    return {name: np.pad(np.asarray(feed[name]), ((0, 0), (count, 0)), constant_values=value)}


def positions(mask: NDArray[Any] | None, shape: tuple[int, int], count: int) -> NDArray[Any]:
    """Return the positions of the last tokens, [batch, count]: how many tokens that aren't masked come before each.

    Args:
        mask: [batch, length], 1 for tokens that count; all of them do without.
        shape: batch and length.
        count: tokens whose positions are wanted.
    """
    if mask is None:
        return np.broadcast_to(np.arange(shape[1] - count, shape[1]), (shape[0], count))
    found = np.cumsum(mask, axis=-1) - 1
    return np.where(mask == 0, 0, found)[:, -count:]


def _present(past: str) -> str:
    """Name the output that becomes an input in the next step."""
    return past.replace("past_key_values", "present", 1) if past.startswith("past_key_values") else f"present{past[4:]}"
