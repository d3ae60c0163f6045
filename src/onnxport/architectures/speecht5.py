"""SpeechT5: speech generation, and its bare model, which takes states of what its own nets before it would make.

What comes before the decoder drops values at random whenever it runs, also where nothing is trained; a graph doesn't,
and neither does the original that it is compared with: every value is kept, which is what it drops on average.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, when_generating
from onnxport.configs._base import model_of
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.patching.patch import Replacement
from onnxport.patching.scope import patching

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_STATES = {"input_values": 7, "decoder_input_values": 3}
"""Inputs of the bare model, and how long examples are."""


class SpeechT5OnnxConfig(DerivedOnnxConfig):
    """Describe SpeechT5 in one graph."""

    def __init__(self, model: PreTrainedModel, *arguments: Any) -> None:
        self._is_bare = type(model).__name__ == "SpeechT5Model"
        super().__init__(model, *arguments)

    def generate_dummy_inputs(self, *arguments: Any, **named: Any) -> Mapping[str, Any]:  # type: ignore[override]
        """Make inputs; see `DerivedOnnxConfig`."""
        import torch

        made = dict(super().generate_dummy_inputs(*arguments, **named))
        if not self._is_bare:
            return made
        batch = next(len(value) for value in made.values())
        states = {name: torch.zeros(batch, length, self._config.hidden_size) for name, length in _STATES.items()}
        return {**states, "attention_mask": torch.ones(batch, _STATES["input_values"], dtype=torch.int64)}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the model; see `OnnxConfig`."""
        with _kept(model_of(forward)):
            return super().run(forward, arguments)


@contextmanager
def _kept(model: PreTrainedModel) -> Iterator[None]:
    """Keep every value of what comes before the decoder, in a block."""
    changed = [module for module in model.modules() if hasattr(module, "_consistent_dropout")]
    with patching(*(Replacement(module, "_consistent_dropout", lambda states, _: states) for module in changed)):
        yield


ARCHITECTURES = (Architecture(("speecht5",), model=when_generating(SpeechT5OnnxConfig)),)
