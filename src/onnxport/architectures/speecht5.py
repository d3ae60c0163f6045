"""SpeechT5: its dropout at inference, and its bare model, which takes hidden states of its pre-nets.

The speech decoder's pre-net applies dropout in evaluation mode, too, as Tacotron 2 does. The graph doesn't, and neither
does the reference that validation compares it with: both keep every value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, when_generating
from onnxport.configs._base import model_of
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.patching.patch import Replacement
from onnxport.patching.scope import patching

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LENGTHS = {"input_values": 7, "decoder_input_values": 3}
"""Inputs of the bare model to the sequence lengths of its dummy inputs."""


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
        hidden_states = {
            name: torch.zeros(batch, length, self._config.hidden_size) for name, length in _LENGTHS.items()
        }
        return {**hidden_states, "attention_mask": torch.ones(batch, _LENGTHS["input_values"], dtype=torch.int64)}

    def run(self, forward: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Run the model; see `OnnxConfig`."""
        with _without_dropout(model_of(forward)):
            return super().run(forward, arguments)


@contextmanager
def _without_dropout(model: PreTrainedModel) -> Iterator[None]:
    """Switch off the dropout of the decoder's pre-net in a block."""
    prenets = [module for module in model.modules() if hasattr(module, "_consistent_dropout")]
    with patching(
        *(Replacement(module, "_consistent_dropout", lambda hidden_states, _: hidden_states) for module in prenets)
    ):
        yield


ARCHITECTURES = (Architecture(("speecht5",), model=when_generating(SpeechT5OnnxConfig)),)
