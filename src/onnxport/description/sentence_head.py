"""Compute the features of a sentence-transformers model inside a model of Transformers: pooling, scores, masks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from onnxport._needs import MoreLayersNeededError
from onnxport.description import sentence_modules as sentence
from onnxport.description.lstm import scan_lstm
from onnxport.description.sentence_modules import (
    DOCUMENT_MASK,
    HEAD,
    INPUT_IDS,
    LAYERS,
    MASK,
    PROMPT_LENGTH,
    QUERY_MASK,
    SENTENCE,
    TOKENS,
    SentenceModel,
)

Features = dict[str, Any]
"""Tensors by feature name; `all_layer_embeddings` is a tuple of them."""

_MIN_NORM = 1e-12
"""Lower bound of the norm that an embedding is divided by."""
_MIN_WEIGHT = 1e-9
"""Lower bound of the sum of weights that an embedding is divided by."""
_MIN_DEVIATION = 1e-5
"""Added to the standard deviation that an embedding is divided by."""
_TOKEN_WEIGHTS_SUM = "token_weights_sum"


def with_head(model_class: Any, described: SentenceModel) -> Any:
    """Return a subclass of a model class whose models have the modules of a sentence-transformers directory.

    Args:
        model_class: a model class of Transformers.
        described: the modules after the transformer.
    """

    @functools.wraps(model_class.__init__)
    def build(self: Any, *arguments: Any, **named: Any) -> None:
        model_class.__init__(self, *arguments, **named)
        setattr(self, HEAD, SentenceHead(described))

    attributes = {name: getattr(model_class, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(model_class.__name__, (model_class,), {**attributes, "__init__": build})


class SentenceHead(nn.Module):
    """Run the modules after the transformer.

    Args:
        described: the modules, in order.
    """

    def __init__(self, described: SentenceModel) -> None:
        super().__init__()
        self.described = described
        self._steps: list[str] = []
        for index, module in enumerate(described.modules):
            self._steps.append(sentence.prefix_of(index).split(".")[1])
            self.add_module(self._steps[-1], _MODULES[type(module)](module))

    def forward(self, features: Features) -> Features:
        """Compute the features that the modules write.

        Args:
            features: `input_ids` and `attention_mask`, [batch, sequence], and the transformer's output, usually
                `token_embeddings`, [batch, sequence, hidden_size].

        Returns:
            These and all other features, such as `sentence_embedding`, [batch, embedding size].
        """
        for step in self._steps:
            features = {**features, **self.get_submodule(step)(features)}
        return features

    def results(self, result: Mapping[str, Any], inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Compute the results of the modules from the outputs of the transformer.

        Args:
            result: outputs of the transformer.
            inputs: its inputs, and `prompt_length`; without `attention_mask`, no token is masked.
        """
        described, ids = self.described, inputs[INPUT_IDS]
        features = {name: inputs[name] for name in (INPUT_IDS, MASK, PROMPT_LENGTH) if name in inputs}
        features.setdefault(MASK, torch.ones_like(ids))
        features.setdefault(PROMPT_LENGTH, torch.zeros_like(ids[:, 0]))
        hidden_states = result.get("hidden_states")
        features = self({**features, described.feature: result[described.output], LAYERS: hidden_states})
        return {name: features[name] for name in described.results}


class _Transform(nn.Module):
    """Compute a feature from another one; a subclass defines `compute`."""

    def __init__(self, settings: sentence.Transform) -> None:
        super().__init__()
        self._source, self._target = settings.source, settings.target

    def forward(self, features: Features) -> Features:
        return {self._target: self.compute(features[self._source])}

    def compute(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return the input unchanged."""
        return embeddings


class _Dense(_Transform):
    def __init__(self, settings: sentence.Dense) -> None:
        super().__init__(settings)
        self.linear = nn.Linear(settings.in_features, settings.out_features, bias=settings.bias)
        self.activation = getattr(nn, settings.activation)()
        self._has_residual = settings.residual
        if settings.residual and settings.in_features != settings.out_features:
            self.residual = nn.Linear(settings.in_features, settings.out_features, bias=False)

    def compute(self, embeddings: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.activation(self.linear(embeddings))
        if not self._has_residual:
            return outputs
        return outputs + (self.residual(embeddings) if hasattr(self, "residual") else embeddings)


class _Normalize(_Transform):
    def compute(self, embeddings: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(embeddings, dim=-1, eps=_MIN_NORM)


class _LayerNorm(_Transform):
    def __init__(self, settings: sentence.LayerNorm) -> None:
        super().__init__(settings)
        self.norm = nn.LayerNorm(settings.size)

    def compute(self, embeddings: torch.Tensor) -> torch.Tensor:
        normalized: torch.Tensor = self.norm(embeddings)
        return normalized


class _Activation(_Transform):
    def __init__(self, settings: sentence.Activation) -> None:
        super().__init__(settings)
        self.activation = getattr(nn, settings.name)()

    def compute(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return the scores in float32, so that those of fp16 and bf16 models don't become equal."""
        scores: torch.Tensor = self.activation(embeddings.float())
        return scores


class _LogitScore(_Transform):
    def __init__(self, settings: sentence.LogitScore) -> None:
        super().__init__(settings)
        self._true, self._false = settings.true_token_id, settings.false_token_id

    def compute(self, embeddings: torch.Tensor) -> torch.Tensor:
        logits = embeddings[:, -1]
        scores = logits[:, self._true] if self._false is None else logits[:, self._true] - logits[:, self._false]
        return scores.unsqueeze(1)


class _SparseAutoEncoder(_Transform):
    """Its decoder, which is only trained with, has the same weight: the file has it under one of two names."""

    def __init__(self, settings: sentence.SparseAutoEncoder) -> None:
        super().__init__(settings)
        self.pre_bias = nn.Parameter(torch.zeros(settings.in_features))
        self.latent_bias = nn.Parameter(torch.zeros(settings.out_features))
        self.register_buffer("stats_last_nonzero", torch.zeros(settings.out_features, dtype=torch.int64))
        self._linear = settings.weight
        owner, _, name = settings.weight.rpartition(".")
        if owner:
            self.add_module(owner, nn.Module())
        linear = nn.Linear(settings.in_features, settings.out_features, bias=False)
        self.get_submodule(owner).add_module(name, linear)
        self._count, self._normalizes = settings.count, settings.normalize

    def compute(self, embeddings: torch.Tensor) -> torch.Tensor:
        if self._normalizes:
            embeddings = embeddings - embeddings.mean(dim=-1, keepdim=True)
            embeddings = embeddings / (embeddings.std(dim=-1, keepdim=True) + _MIN_DEVIATION)
        values = self.get_submodule(self._linear)(embeddings - self.pre_bias) + self.latent_bias
        largest = values.topk(self._count, dim=-1)
        return torch.zeros_like(values).scatter(-1, largest.indices, largest.values).relu()


class _Convolutions(_Transform):
    def __init__(self, settings: sentence.Convolutions) -> None:
        super().__init__(settings)
        self.convs = nn.ModuleList(
            nn.Conv1d(settings.in_channels, settings.out_channels, size, padding=size // 2)
            for size in settings.kernel_sizes
        )

    def compute(self, embeddings: torch.Tensor) -> torch.Tensor:
        channels = embeddings.transpose(1, 2)
        return torch.cat([conv(channels) for conv in self.convs], dim=1).transpose(1, 2)


class _Lstm(nn.Module):
    """Run nn.LSTM as a scan over tokens."""

    def __init__(self, settings: sentence.Lstm) -> None:
        super().__init__()
        self._source, self._target = settings.source, settings.target
        self.encoder = nn.LSTM(
            settings.in_features,
            settings.hidden_size,
            num_layers=settings.layers,
            bidirectional=settings.bidirectional,
            batch_first=True,
        )

    def forward(self, features: Features) -> Features:
        states, mask = features[self._source], features[MASK]
        lengths = mask.sum(dim=1, keepdim=True).clamp(min=1)
        positions = _positions(mask)
        is_token = positions < lengths
        backwards = torch.where(is_token, lengths - 1 - positions, positions)[..., None]
        for layer in range(self.encoder.num_layers):
            directions = [self._run(states, f"l{layer}")]
            if self.encoder.bidirectional:
                reverse = self._run(_reordered(states, backwards), f"l{layer}_reverse")
                directions.append(_reordered(reverse, backwards))
            states = torch.cat(directions, dim=-1)
        return {self._target: states * is_token[..., None].to(states.dtype)}

    def _run(self, states: torch.Tensor, suffix: str) -> torch.Tensor:
        """Return the outputs of one layer in one direction, [batch, sequence, hidden_size]."""
        return scan_lstm(self.encoder, states.transpose(0, 1), suffix).transpose(0, 1)


def _reordered(states: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Return the states at positions [batch, sequence, 1] of each sequence."""
    return states.gather(1, positions.expand(-1, -1, states.shape[-1]))


class _LayerPooling(nn.Module):
    def __init__(self, settings: sentence.LayerPooling) -> None:
        super().__init__()
        self.layer_weights = nn.Parameter(torch.ones(settings.count))
        self._start, self._count = settings.start, settings.count

    def forward(self, features: Features) -> Features:
        if features.get(LAYERS) is None:  # sentence-transformers keeps the last hidden states then, too
            return {}
        chosen = features[LAYERS][self._start :]
        if len(chosen) != self._count:
            raise MoreLayersNeededError(f"the hidden states of {self._count} layers have weights")
        layers = torch.stack(chosen)
        return {TOKENS: (self.layer_weights[:, None, None, None] * layers).sum(dim=0) / self.layer_weights.sum()}


class _WordWeights(nn.Module):
    def __init__(self, settings: sentence.WordWeights) -> None:
        super().__init__()
        self._weights = settings.weights

    def forward(self, features: Features) -> Features:
        # not a buffer: from_pretrained doesn't keep the values of one that the checkpoint doesn't have
        weights = torch.tensor(self._weights, device=features[INPUT_IDS].device)[features[INPUT_IDS]]
        weights = weights * features[MASK].float()
        return {TOKENS: features[TOKENS] * weights[..., None], _TOKEN_WEIGHTS_SUM: weights.sum(dim=1)}


class _SpladePooling(nn.Module):
    def __init__(self, settings: sentence.SpladePooling) -> None:
        super().__init__()
        self._is_max, self._logarithms = settings.strategy == "max", settings.logarithms

    def forward(self, features: Features) -> Features:
        values = (features[TOKENS] * features[MASK][..., None].to(features[TOKENS].dtype)).relu()
        for _ in range(self._logarithms):
            values = values.log1p()
        return {SENTENCE: values.amax(dim=1) if self._is_max else values.sum(dim=1)}


class _ScoringMask(nn.Module):
    def __init__(self, settings: sentence.ScoringMask) -> None:
        super().__init__()
        self._settings = settings

    def forward(self, features: Features) -> Features:
        settings, ids, mask = self._settings, features[INPUT_IDS], features[MASK] != 0
        queries, documents = mask, mask & ~_is_any(ids, settings.skipped_in_documents)
        if settings.expansion is not None:
            extends = (ids == settings.expansion.token_id) & (_positions(ids) < settings.expansion.length)
            queries = queries | extends
        queries = queries & ~_is_any(ids, settings.skipped_in_queries)
        if settings.kept_in_documents:
            documents = documents & _is_any(ids, settings.kept_in_documents)
        return {QUERY_MASK: queries.to(torch.int64), DOCUMENT_MASK: documents.to(torch.int64)}


def _is_any(ids: torch.Tensor, chosen: tuple[int, ...]) -> torch.Tensor:
    """Return whether each token id is one of the chosen ones."""
    if not chosen:
        return torch.zeros_like(ids, dtype=torch.bool)
    return (ids[..., None] == torch.tensor(chosen, dtype=ids.dtype, device=ids.device)).any(dim=-1)


class _Pooling(nn.Module):
    def __init__(self, settings: sentence.Pooling) -> None:
        super().__init__()
        self._modes, self._includes_prompt = settings.modes, settings.include_prompt

    def forward(self, features: Features) -> Features:
        mask = original = features[MASK]
        if not self._includes_prompt:
            mask = mask * (_positions(mask) >= _first(mask) + features[PROMPT_LENGTH][:, None])
        tokens = _Tokens(features[TOKENS], mask, _positions(mask) - _first(original) + 1, features)
        return {SENTENCE: torch.cat([_POOLING[mode](tokens) for mode in self._modes], dim=-1)}


class _Tokens:
    """Hold what is pooled: embeddings, mask, the weight of each position, and the sum of the tokens' weights if any.

    Sums of fp16 and bf16 values are computed in float32.
    """

    def __init__(
        self, embeddings: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, features: Features
    ) -> None:
        self.embeddings, self.mask, self.positions = embeddings, mask, positions
        self.total: torch.Tensor | None = features.get(_TOKEN_WEIGHTS_SUM)
        is_half = embeddings.dtype in (torch.float16, torch.bfloat16)
        self.sum_dtype = torch.float32 if is_half else embeddings.dtype

    def gathered(self, positions: torch.Tensor) -> torch.Tensor:
        """Return the embedding at one position of each sequence, [batch, hidden_size]."""
        index = positions[:, None, None].expand(-1, 1, self.embeddings.shape[-1])
        return self.embeddings.gather(1, index).squeeze(1)

    def averaged(self, weights: torch.Tensor, divisor: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Return the weighted sum, divided by a function of the sum of the weights, [batch, hidden_size]."""
        weights = weights.to(self.sum_dtype)
        total = weights.sum(dim=1) if self.total is None else self.total.to(self.sum_dtype)
        summed = (self.embeddings.to(self.sum_dtype) * weights[..., None]).sum(dim=1)
        return (summed / divisor(total.clamp(min=_MIN_WEIGHT))[:, None]).to(self.embeddings.dtype)


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """Return the positions of the tokens, [1, sequence]."""
    return torch.arange(mask.shape[1], device=mask.device).unsqueeze(0)


def _first(mask: torch.Tensor) -> torch.Tensor:
    """Return the position of the first token, [batch, 1]: 0 unless there is padding before it, or padding alone."""
    length = mask.shape[1]
    first = torch.where(mask > 0, _positions(mask), length).amin(dim=1, keepdim=True)
    return torch.where(first == length, 0, first)


def _first_token(tokens: _Tokens) -> torch.Tensor:
    return tokens.gathered(_first(tokens.mask)[:, 0])


def _last_token(tokens: _Tokens) -> torch.Tensor:
    """Return the last token's embedding; zeros for a sequence of padding alone."""
    last = tokens.gathered(torch.where(tokens.mask > 0, _positions(tokens.mask), 0).amax(dim=1))
    return last * (tokens.mask > 0).any(dim=1, keepdim=True).to(last.dtype)


def _max(tokens: _Tokens) -> torch.Tensor:
    return tokens.embeddings.masked_fill(tokens.mask[..., None] == 0, -torch.inf).amax(dim=1)


def _mean(tokens: _Tokens) -> torch.Tensor:
    return tokens.averaged(tokens.mask, lambda total: total)


def _mean_sqrt_len(tokens: _Tokens) -> torch.Tensor:
    return tokens.averaged(tokens.mask, torch.sqrt)


def _weighted_mean(tokens: _Tokens) -> torch.Tensor:
    return tokens.averaged(tokens.mask * tokens.positions, lambda total: total)


_POOLING: dict[str, Callable[[_Tokens], torch.Tensor]] = {
    "cls": _first_token,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt_len,
    "weightedmean": _weighted_mean,
    "lasttoken": _last_token,
}
_MODULES: dict[type, Callable[..., nn.Module]] = {
    sentence.Pooling: _Pooling,
    sentence.Dense: _Dense,
    sentence.Normalize: _Normalize,
    sentence.LayerNorm: _LayerNorm,
    sentence.Dropout: _Transform,
    sentence.Activation: _Activation,
    sentence.LogitScore: _LogitScore,
    sentence.SparseAutoEncoder: _SparseAutoEncoder,
    sentence.Convolutions: _Convolutions,
    sentence.Lstm: _Lstm,
    sentence.LayerPooling: _LayerPooling,
    sentence.WordWeights: _WordWeights,
    sentence.SpladePooling: _SpladePooling,
    sentence.ScoringMask: _ScoringMask,
}
