"""The modules of a sentence-transformers model after the transformer, and the description of the whole graph.

Modules are values here; other files read them from a checkpoint, and build their PyTorch modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.description.delegating import DelegatingOnnxConfig
from onnxport.errors import UnsupportedError

POOLING_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""Pooling modes of sentence-transformers: the first token, the maximum, the mean, the sum divided by the square root of
the number of tokens, the mean with weights 1, 2, 3 …, the last token."""
HEAD = "sentence_head"
"""Attribute of the model with the modules after it, and so the prefix of their parameters."""

_HIDDEN_STATES = "last_hidden_state"


@dataclass(frozen=True)
class Pooling:
    """Pool the hidden states of a sequence to one embedding.

    Attributes:
        modes: modes in `POOLING_MODES`; the results of several are concatenated.
    """

    modes: tuple[str, ...]


@dataclass(frozen=True)
class Dense:
    """Apply a linear layer and an activation to an embedding.

    Attributes:
        in_features: size of the embedding.
        out_features: size of the output.
        bias: whether the linear layer has a bias.
        activation: class name of the activation in `torch.nn`.
        residual: whether the embedding is added to the output.
    """

    in_features: int
    out_features: int
    bias: bool
    activation: str
    residual: bool


@dataclass(frozen=True)
class Normalize:
    """Divide an embedding by its L2 norm."""


SentenceModule = Pooling | Dense | Normalize
"""A module after the transformer."""


def prefix_of(index: int) -> str:
    """Return the prefix of a module's parameter names in the model.

    Args:
        index: index among the modules after the transformer.
    """
    return f"{HEAD}.module_{index}."


class SentenceEmbeddingOnnxConfig(DelegatingOnnxConfig):
    """Describe a model with the modules that compute one embedding per sequence.

    Args:
        trunk: description of the transformer without the modules.

    Raises:
        UnsupportedError: the transformer has no `input_ids` or no `last_hidden_state`.
    """

    def __init__(self, trunk: OnnxConfig) -> None:
        super().__init__(trunk, "default")
        if _HIDDEN_STATES not in trunk.outputs or "input_ids" not in trunk.inputs:
            raise UnsupportedError(
                f"{trunk._config.model_type} takes {', '.join(trunk.inputs)} and returns {', '.join(trunk.outputs)}; "
                f"sentence-similarity needs input_ids and {_HIDDEN_STATES}: export it with --task feature-extraction"
            )

    @property
    def outputs(self) -> Axes:
        """The hidden states, [batch, sequence, hidden_size], and one embedding per sequence, [batch, embedding size].

        Optimum, and sentence-transformers through it, read the outputs by these names.
        """
        tokens = self.trunk.inputs["input_ids"]
        return {_HIDDEN_STATES: dict(tokens), "sentence_embedding": {0: tokens[0]}}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the transformer, then the modules on its hidden states; without a mask, no token is masked."""
        import torch

        model = model_of(forward)
        hidden_states = self.trunk.run(forward, arguments)[_HIDDEN_STATES]
        mask = arguments.get("attention_mask")
        if mask is None:
            mask = torch.ones(hidden_states.shape[:2], dtype=torch.int64, device=hidden_states.device)
        return {_HIDDEN_STATES: hidden_states, "sentence_embedding": getattr(model, HEAD)(hidden_states, mask)}
