"""Compute sentence embeddings from hidden states, inside the model: pooling, linear layers, normalization."""

from __future__ import annotations

import functools
from typing import Any

import torch

from onnxport.description import sentence_embedding as sentence
from onnxport.description.sentence_embedding import HEAD, SentenceModule

_MIN_NORM = 1e-12
"""Lower bound of the norm that an embedding is divided by."""


def with_head(model_class: Any, modules: tuple[SentenceModule, ...]) -> Any:
    """Return a subclass of a model class whose models have the modules of a sentence-transformers directory.

    Args:
        model_class: a model class of Transformers.
        modules: the modules after the transformer.
    """

    @functools.wraps(model_class.__init__)
    def build(self: Any, *arguments: Any, **named: Any) -> None:
        model_class.__init__(self, *arguments, **named)
        setattr(self, HEAD, SentenceHead(modules))

    attributes = {name: getattr(model_class, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(model_class.__name__, (model_class,), {**attributes, "__init__": build})


class SentenceHead(torch.nn.Module):
    """Compute the embedding of each sequence from its hidden states.

    Args:
        modules: the modules, in order; the first is the pooling.
    """

    def __init__(self, modules: tuple[SentenceModule, ...]) -> None:
        super().__init__()
        (self._pooling_modes,) = [module.modes for module in modules[:1] if isinstance(module, sentence.Pooling)]
        self._steps: list[str] = []
        for index, module in enumerate(modules[1:], 1):
            self._steps.append(sentence.prefix_of(index).split(".")[1])
            self.add_module(self._steps[-1], _Dense(module) if isinstance(module, sentence.Dense) else _Normalize())

    def forward(self, hidden_states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Compute the embeddings.

        Args:
            hidden_states: [batch, sequence, hidden_size].
            mask: 1 for a token, 0 for padding, [batch, sequence].

        Returns:
            The embeddings, [batch, embedding size].
        """
        embeddings = torch.cat([_POOLING[mode](hidden_states, mask) for mode in self._pooling_modes], dim=-1)
        for step in self._steps:
            embeddings = self.get_submodule(step)(embeddings)
        return embeddings


class _Dense(torch.nn.Module):
    def __init__(self, settings: sentence.Dense) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(settings.in_features, settings.out_features, bias=settings.bias)
        self.activation = getattr(torch.nn, settings.activation)()
        self._residual = settings.residual

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.activation(self.linear(embeddings))
        return embeddings + outputs if self._residual else outputs


class _Normalize(torch.nn.Module):
    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(embeddings, dim=-1, eps=_MIN_NORM)


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """Return the positions of the tokens, [1, sequence]."""
    return torch.arange(mask.shape[1], device=mask.device).unsqueeze(0)


def _gather_token(hidden_states: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Return the hidden state at one position of each sequence, [batch, hidden_size]."""
    index = positions[:, None, None].expand(-1, 1, hidden_states.shape[-1])
    return hidden_states.gather(1, index).squeeze(1)


def _first_token(hidden_states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the hidden state of the first token; with left padding, that isn't position 0."""
    return _gather_token(hidden_states, torch.where(mask > 0, _positions(mask), mask.shape[1] - 1).amin(dim=1))


def _last_token(hidden_states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return _gather_token(hidden_states, torch.where(mask > 0, _positions(mask), 0).amax(dim=1))


def _max(hidden_states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return hidden_states.masked_fill(mask[..., None] == 0, -torch.inf).amax(dim=1)


def _weighted_sum(hidden_states: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weighted sum of the hidden states, [batch, hidden_size], and the sum of the weights, [batch, 1]."""
    weights = weights.to(hidden_states.dtype)
    return (hidden_states * weights[..., None]).sum(dim=1), weights.sum(dim=1, keepdim=True).clamp(min=1e-9)


def _mean(hidden_states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    total, count = _weighted_sum(hidden_states, mask)
    return total / count


def _mean_sqrt_len(hidden_states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    total, count = _weighted_sum(hidden_states, mask)
    return total / count.sqrt()


def _weighted_mean(hidden_states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    total, weight = _weighted_sum(hidden_states, mask * (_positions(mask) + 1))
    return total / weight


_POOLING = {
    "cls": _first_token,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt_len,
    "weightedmean": _weighted_mean,
    "lasttoken": _last_token,
}
