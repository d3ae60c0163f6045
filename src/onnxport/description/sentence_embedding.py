"""What makes one embedding of a text's token states: the modules of a sentence-transformers directory, and the graph.

The modules are values here; the files that they are read from, and the network that computes them, are elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.errors import UnsupportedError

POOLING_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""Ways to make one state of many: the first token's, the largest, the mean, the sum over the root of the number of
tokens, the mean with weights 1, 2, 3 …, the last token's."""
HEAD = "sentence_head"
"""Name that the modules after the model have inside it, and so the prefix of their parameters."""

_HIDDEN_STATES = "last_hidden_state"


@dataclass(frozen=True)
class Pooling:
    """Make one state of a text's token states.

    Attributes:
        modes: of `POOLING_MODES`; what several give is put one after the other.
    """

    modes: tuple[str, ...]


@dataclass(frozen=True)
class Dense:
    """Multiply an embedding by a matrix.

    Attributes:
        in_features: its size before.
        out_features: its size after.
        bias: whether something is added.
        activation: class of `torch.nn` that is applied then.
        residual: whether the embedding is added to that.
    """

    in_features: int
    out_features: int
    bias: bool
    activation: str
    residual: bool


@dataclass(frozen=True)
class Normalize:
    """Divide an embedding by its length."""


SentenceModule = Pooling | Dense | Normalize
"""What follows the model."""


def prefix_of(index: int) -> str:
    """Return what the names of a module's tensors begin with inside the model; the index is that after the model."""
    return f"{HEAD}.module_{index}."


class SentenceEmbeddingOnnxConfig(OnnxConfig):
    """Describe a model with the modules that make one embedding of each text.

    Args:
        trunk: description of the model alone.

    Raises:
        UnsupportedError: the model gives no states of tokens.
    """

    def __init__(self, trunk: OnnxConfig) -> None:
        super().__init__(trunk._config, "default")
        if _HIDDEN_STATES not in trunk.outputs or "input_ids" not in trunk.inputs:
            raise UnsupportedError(
                f"{trunk._config.model_type} takes {', '.join(trunk.inputs)} and gives {', '.join(trunk.outputs)}, and "
                f"sentence-similarity needs input_ids and {_HIDDEN_STATES}: export it with --task feature-extraction"
            )
        self._trunk = trunk

    @property
    def trunk(self) -> OnnxConfig:
        """Description of the model alone."""
        return self._trunk

    @property
    def inputs(self) -> Axes:
        """Those of the model."""
        return self._trunk.inputs

    @property
    def outputs(self) -> Axes:
        """The hidden states, [batch, sequence, size], and one embedding of each sequence, [batch, size].

        The names are those by which optimum, and sentence-transformers through it, read the outputs.
        """
        tokens = self._trunk.inputs["input_ids"]
        return {_HIDDEN_STATES: dict(tokens), "sentence_embedding": {0: tokens[0]}}

    @property
    def values_override(self) -> Mapping[str, Any] | None:
        """Those of the model."""
        return self._trunk.values_override

    @property
    def model_values(self) -> Mapping[str, Any]:
        """Those of the model."""
        return self._trunk.model_values

    @property
    def static_symbols(self) -> frozenset[str]:
        """Those of the model."""
        return self._trunk.static_symbols

    @property
    def default_onnx_opset(self) -> int:
        """That of the model."""
        return self._trunk.default_onnx_opset

    @property
    def atol_for_validation(self) -> float:
        """That of the model."""
        return self._trunk.atol_for_validation

    def generate_dummy_inputs(  # type: ignore[override]
        self, preprocessor: Any, *sizes: Any, **named: Any
    ) -> Mapping[str, Any]:
        """Make the model's inputs; see `OnnxConfig`."""
        return self._trunk.generate_dummy_inputs(preprocessor, *sizes, **named)

    def generate_dummy_inputs_onnxruntime(self, reference_model_inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the model's inputs for ONNX Runtime; see `OnnxConfig`."""
        return self._trunk.generate_dummy_inputs_onnxruntime(reference_model_inputs)

    def patch_ops(self) -> None:
        """Put the model's patches in place."""
        self._trunk.patch_ops()

    def restore_ops(self) -> None:
        """Put back what the patches replaced."""
        self._trunk.restore_ops()

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the model, and the modules on the states of its tokens; without a mask, all tokens count."""
        import torch

        model = model_of(forward)
        states = self._trunk.run(forward, arguments)[_HIDDEN_STATES]
        mask = arguments.get("attention_mask")
        if mask is None:
            mask = torch.ones(states.shape[:2], dtype=torch.int64, device=states.device)
        return {_HIDDEN_STATES: states, "sentence_embedding": getattr(model, HEAD)(states, mask)}
