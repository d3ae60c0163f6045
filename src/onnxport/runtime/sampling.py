"""Choose the next token from logits: greedy decoding, or sampling with temperature, top-k and top-p."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.errors import OptionError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class GenerationSettings:
    """Choose how tokens are generated; names and meanings are those of Transformers' `GenerationConfig`.

    Attributes:
        max_new_tokens: maximum number of tokens to generate.
        do_sample: sample from the distribution; greedy decoding otherwise.
        temperature: divisor of the logits before the softmax.
        top_k: number of most probable tokens to sample from, 0 for all.
        top_p: nucleus sampling: sample from the smallest set of tokens whose probabilities add up to this or more.
        repetition_penalty: divisor of the logits of tokens that occurred before (a factor if they are negative).
        seed: random seed.
        eos_token_ids: ids of the tokens that end a sequence.
        pad_token_id: id of the token that follows the end of a sequence.

    Raises:
        OptionError: a value is out of range.
    """

    max_new_tokens: int = 256
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    eos_token_ids: frozenset[int] = frozenset()
    pad_token_id: int = 0

    def __post_init__(self) -> None:
        valid = {
            "max_new_tokens": self.max_new_tokens >= 1,
            "temperature": self.temperature > 0,
            "top_k": self.top_k >= 0,
            "top_p": 0 < self.top_p <= 1,
            "repetition_penalty": self.repetition_penalty > 0,
        }
        for name, is_valid in valid.items():
            if not is_valid:
                raise OptionError(f"{name} {getattr(self, name)!r} is out of range: {_RANGES[name]}")

    @classmethod
    def from_defaults(cls, defaults: Mapping[str, Any], overrides: Mapping[str, Any]) -> GenerationSettings:
        """Build the settings from a generation config and overrides.

        Args:
            defaults: contents of `generation_config.json`; names that aren't supported here are ignored.
            overrides: values that replace the defaults, except None.

        Raises:
            OptionError: a name in `overrides` isn't supported, or a value is out of range.
        """
        supported = (*_RANGES, "do_sample", "seed")
        unknown = sorted(set(overrides) - {*supported, "eos_token_id", "pad_token_id"})
        if unknown:
            raise OptionError(
                f"{', '.join(unknown)}: generation without torch supports {', '.join(sorted(supported))}; install "
                "onnxport[export] for everything that Transformers' generate supports"
            )
        merged = {**defaults, **{name: value for name, value in overrides.items() if value is not None}}
        values = {name: merged[name] for name in supported if merged.get(name) is not None}
        eos = merged.get("eos_token_id")
        eos_ids = frozenset(
            int(index) for index in (eos if isinstance(eos, list | tuple) else [eos]) if index is not None
        )
        pad = merged.get("pad_token_id")
        return cls(
            **values, eos_token_ids=eos_ids, pad_token_id=int(pad) if pad is not None else min(eos_ids, default=0)
        )


_RANGES = {
    "max_new_tokens": "1 or more",
    "temperature": "more than 0",
    "top_k": "0 or more",
    "top_p": "more than 0, at most 1",
    "repetition_penalty": "more than 0",
}


class TokenSampler:
    """Choose the next token of each sequence of a batch, step by step.

    Args:
        settings: greedy decoding or sampling, and when a sequence ends.
        prompt: ids of the tokens before the first step, [batch, length].

    Attributes:
        token_ids: ids of all tokens, those of the prompt included, [batch, length].
    """

    def __init__(self, settings: GenerationSettings, prompt: NDArray[Any]) -> None:
        self._settings = settings
        self._random = np.random.default_rng(settings.seed)
        self.token_ids = prompt
        self._finished = np.zeros(len(prompt), dtype=bool)

    @property
    def finished(self) -> bool:
        """Whether every sequence has ended."""
        return bool(self._finished.all())

    def next_tokens(self, logits: NDArray[Any]) -> NDArray[Any]:
        """Return the ids of the next tokens, [batch], from the logits of the last position, [batch, vocabulary]."""
        settings = self._settings
        scores = logits.astype(np.float32)
        if settings.repetition_penalty != 1:
            scores = _apply_repetition_penalty(scores, self.token_ids, settings.repetition_penalty)
        chosen = self._sample(scores) if settings.do_sample else scores.argmax(axis=-1)
        tokens = np.where(self._finished, settings.pad_token_id, chosen).astype(np.int64)
        self._finished |= np.isin(tokens, list(settings.eos_token_ids))
        self.token_ids = np.concatenate([self.token_ids, tokens[:, None]], axis=1)
        return tokens

    def _sample(self, scores: NDArray[Any]) -> NDArray[Any]:
        settings = self._settings
        probabilities = _probabilities(scores / settings.temperature, settings.top_k, settings.top_p)
        cumulative = probabilities.cumsum(axis=-1)
        points = self._random.random((len(probabilities), 1)) * cumulative[:, -1:]
        return np.asarray((cumulative <= points).sum(axis=-1).clip(max=probabilities.shape[1] - 1))


def _apply_repetition_penalty(scores: NDArray[Any], token_ids: NDArray[Any], penalty: float) -> NDArray[Any]:
    before = np.take_along_axis(scores, token_ids, axis=1)
    scores = scores.copy()
    np.put_along_axis(scores, token_ids, np.where(before < 0, before * penalty, before / penalty), axis=1)
    return scores


def _probabilities(scores: NDArray[Any], top_k: int, top_p: float) -> NDArray[Any]:
    """Return probabilities, [batch, vocabulary]: 0 outside of the top k, and not normalized after top-p filtering."""
    scores = np.asarray(scores, dtype=np.float64)
    if 0 < top_k < scores.shape[1]:
        threshold = np.partition(scores, -top_k, axis=-1)[:, -top_k, None]
        scores = np.where(scores < threshold, -np.inf, scores)
    probabilities = np.exp(scores - scores.max(axis=-1, keepdims=True))
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    if top_p < 1:
        order = np.argsort(-probabilities, axis=-1, kind="stable")
        ranked = np.take_along_axis(probabilities, order, axis=-1)
        before = ranked.cumsum(axis=-1) - ranked
        np.put_along_axis(probabilities, order, np.where(before >= top_p, 0.0, ranked), axis=-1)
    return np.asarray(probabilities)


TokenSteps = Iterator["NDArray[Any]"]
"""Iterator over the token ids of each step, [batch]."""
