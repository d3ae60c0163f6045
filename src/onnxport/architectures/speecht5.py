"""Describe SpeechT5 for speech generation, and its base model, whose inputs are the hidden states of its prenets.

The decoder prenet applies dropout even in evaluation mode. A graph doesn't, and neither does the original model that it
is compared with: all values are kept, which is the expected value of the dropout.
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
"""Inputs of the base model, and the sequence lengths of dummy inputs."""


class SpeechT5OnnxConfig(DerivedOnnxConfig):
    """Describe SpeechT5 as a single graph."""

    def __init__(self, model: PreTrainedModel, *arguments: Any) -> None:
        self._is_base_model = type(model).__name__ == "SpeechT5Model"
        super().__init__(model, *arguments)

    def generate_dummy_inputs(self, *arguments: Any, **named: Any) -> Mapping[str, Any]:  # type: ignore[override]
        """Create dummy inputs; see `DerivedOnnxConfig`."""
        import torch

        inputs = dict(super().generate_dummy_inputs(*arguments, **named))
        if not self._is_base_model:
            return inputs
        batch = next(len(value) for value in inputs.values())
        hidden_states = {name: torch.zeros(batch, length, self._config.hidden_size) for name, length in _STATES.items()}
        return {**hidden_states, "attention_mask": torch.ones(batch, _STATES["input_values"], dtype=torch.int64)}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the model; see `OnnxConfig`."""
        with _without_prenet_dropout(model_of(forward)):
            return super().run(forward, arguments)


@contextmanager
def _without_prenet_dropout(model: PreTrainedModel) -> Iterator[None]:
    """Disable the dropout of the decoder prenet within the block."""
    prenets = [module for module in model.modules() if hasattr(module, "_consistent_dropout")]
    with patching(*(Replacement(module, "_consistent_dropout", lambda states, _: states) for module in prenets)):
        yield


ARCHITECTURES = (Architecture(("speecht5",), model=when_generating(SpeechT5OnnxConfig)),)
