"""xLSTM: what it remembers becomes inputs and outputs.

A layer remembers the sum of what it wrote, the sum of what it wrote it with, and the exponent of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from onnxport.architectures._architecture import Architecture, Tiny, when_generating
from onnxport.description.cache_layout import CacheLayout, CacheTensor
from onnxport.description.derived import DerivedOnnxConfig


class XlstmOnnxConfig(DerivedOnnxConfig):
    """Describe xLSTM for generation, with its states or without."""

    def parameters_of(self, model: Any) -> tuple[str, ...]:
        """Name what the model takes: also a mask, which it doesn't look at."""
        return (*super().parameters_of(model), "attention_mask")

    def describe_cache(self, model: Any, cache: Any) -> CacheLayout:
        """Describe the states of every layer."""
        layers = tuple(
            tuple(
                CacheTensor(layer, "recurrent_states", "recurrent", tuple(state.shape[1:]), number)
                for number, state in enumerate(states)
            )
            for layer, states in cache.rnn_state.items()
        )
        return CacheLayout(layers, len(layers))

    def past_to_cache(self, past: Any, arguments: Mapping[str, Any]) -> Any:
        """Return what the model takes for its cache."""
        states = {layer: tuple(state.clone() for state in states) for layer, states in enumerate(past)}
        return SimpleNamespace(rnn_state=states, seqlen_offset=0)

    def cache_to_past(self, cache: Any) -> Any:
        """Return the states of every layer."""
        return list(cache.rnn_state.values())


ARCHITECTURES = (Architecture(("xlstm",), model=when_generating(XlstmOnnxConfig), tiny=Tiny({"hidden_size": 128})),)
