"""Compute one embedding of a text's token states, inside the model: pooling, linear layers, normalisation."""

from __future__ import annotations

import functools
from typing import Any

import torch

from onnxport.description import sentence_embedding as sentence
from onnxport.description.sentence_embedding import HEAD, SentenceModule

_MIN_NORM = 1e-12
"""Length that an embedding is divided by at least."""


def with_head(model_class: Any, modules: tuple[SentenceModule, ...]) -> Any:
    """Return a class like another whose models have the modules of a sentence-transformers directory, too.

    Args:
        model_class: a model class of Transformers.
        modules: what follows the model.
    """

    @functools.wraps(model_class.__init__)
    def build(self: Any, *arguments: Any, **named: Any) -> None:
        model_class.__init__(self, *arguments, **named)
        setattr(self, HEAD, SentenceHead(modules))

    own = {name: getattr(model_class, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(model_class.__name__, (model_class,), {**own, "__init__": build})


class SentenceHead(torch.nn.Module):
    """Turn the states of tokens into embeddings of texts.

    Args:
        modules: what is done, in order; the first makes one state of many.
    """

    def __init__(self, modules: tuple[SentenceModule, ...]) -> None:
        super().__init__()
        (self._modes,) = [module.modes for module in modules[:1] if isinstance(module, sentence.Pooling)]
        self._steps: list[str] = []
        for index, module in enumerate(modules[1:], 1):
            self._steps.append(sentence.prefix_of(index).split(".")[1])
            self.add_module(self._steps[-1], _Dense(module) if isinstance(module, sentence.Dense) else _Normalize())

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Compute the embeddings.

        Args:
            states: of the tokens, [batch, tokens, size].
            mask: 1 for a token, 0 for padding, [batch, tokens].

        Returns:
            The embeddings, [batch, size].
        """
        embeddings = torch.cat([_POOLING[mode](states, mask) for mode in self._modes], dim=-1)
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
        changed: torch.Tensor = self.activation(self.linear(embeddings))
        return embeddings + changed if self._residual else changed


class _Normalize(torch.nn.Module):
    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(embeddings, dim=-1, eps=_MIN_NORM)


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """Return the places of the tokens, [1, tokens]."""
    return torch.arange(mask.shape[1], device=mask.device).unsqueeze(0)


def _gather_token(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return the state at one place of each text."""
    index = places[:, None, None].expand(-1, 1, states.shape[-1])
    return states.gather(1, index).squeeze(1)


def _first_token(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the first token's state: not that at the first place where texts are padded at their start."""
    return _gather_token(states, torch.where(mask > 0, _positions(mask), mask.shape[1] - 1).amin(dim=1))


def _last_token(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return _gather_token(states, torch.where(mask > 0, _positions(mask), 0).amax(dim=1))


def _max(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return states.masked_fill(mask[..., None] == 0, -torch.inf).amax(dim=1)


def _weighted_sum(states: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weighted sum of the states, [batch, size], and the sum of the weights, [batch, 1]."""
    weights = weights.to(states.dtype)
    return (states * weights[..., None]).sum(dim=1), weights.sum(dim=1, keepdim=True).clamp(min=1e-9)


def _mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    total, count = _weighted_sum(states, mask)
    return total / count


def _mean_sqrt_len(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    total, count = _weighted_sum(states, mask)
    return total / count.sqrt()


def _weighted_mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    total, weight = _weighted_sum(states, mask * (_positions(mask) + 1))
    return total / weight


_POOLING = {
    "cls": _first_token,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt_len,
    "weightedmean": _weighted_mean,
    "lasttoken": _last_token,
}
