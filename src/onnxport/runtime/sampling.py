"""Choose the next token from logits: the likeliest, or drawn by chance among the likely ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.errors import OptionError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Sampling:
    """Choose how tokens are chosen; the names and the meaning are those of Transformers' `GenerationConfig`.

    Attributes:
        max_new_tokens: tokens to generate at most.
        do_sample: draw tokens by chance; the likeliest without.
        temperature: what logits are divided by.
        top_k: only so many of the likeliest tokens are drawn from, 0 for all.
        top_p: only the likeliest tokens that together are this probable are drawn from.
        repetition_penalty: what the logits of tokens that occurred are divided by (multiplied where negative).
        seed: of the generator of random numbers.
        ends: tokens after which a text is complete.
        pad: token that follows in texts that are complete.

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
    ends: frozenset[int] = frozenset()
    pad: int = 0

    def __post_init__(self) -> None:
        limits = {
            "max_new_tokens": self.max_new_tokens >= 1,
            "temperature": self.temperature > 0,
            "top_k": self.top_k >= 0,
            "top_p": 0 < self.top_p <= 1,
            "repetition_penalty": self.repetition_penalty > 0,
        }
        for name, right in limits.items():
            if not right:
                raise OptionError(f"{name} {getattr(self, name)!r} is out of range: {_RANGES[name]}")

    @classmethod
    def of(cls, settings: Mapping[str, Any], given: Mapping[str, Any]) -> Sampling:
        """Make it from a directory's generation settings, and what was given instead.

        Raises:
            OptionError: a name is unknown, or a value out of range.
        """
        known = set(cls.__dataclass_fields__) - {"ends", "pad"}
        unknown = sorted(given.keys() - known - {"eos_token_id", "pad_token_id"})
        if unknown:
            raise OptionError(
                f"{', '.join(unknown)}: generating without torch knows {', '.join(sorted(known))}; install "
                "onnxport[export] for everything that Transformers' generate does"
            )
        chosen = {**settings, **{name: value for name, value in given.items() if value is not None}}
        values = {name: chosen[name] for name in known if chosen.get(name) is not None}
        ends = chosen.get("eos_token_id")
        tokens = frozenset(int(end) for end in (ends if isinstance(ends, list | tuple) else [ends]) if end is not None)
        pad = chosen.get("pad_token_id")
        return cls(**values, ends=tokens, pad=int(pad) if pad is not None else min(tokens, default=0))


_RANGES = {
    "max_new_tokens": "1 or more",
    "temperature": "more than 0",
    "top_k": "0 or more",
    "top_p": "more than 0, at most 1",
    "repetition_penalty": "more than 0",
}


class Chooser:
    """Choose one token for each text, step by step.

    Args:
        how: see `Sampling`.
        prompt: tokens that came before, [batch, length].
    """

    def __init__(self, how: Sampling, prompt: NDArray[Any]) -> None:
        self._how = how
        self._random = np.random.default_rng(how.seed)
        self._seen = prompt
        self._done = np.zeros(len(prompt), dtype=bool)

    @property
    def done(self) -> bool:
        """Whether every text is complete."""
        return bool(self._done.all())

    def choose(self, logits: NDArray[Any]) -> NDArray[Any]:
        """Return the next tokens, [batch], from the logits of the last ones, [batch, vocabulary]."""
        how = self._how
        scores = logits.astype(np.float32)
        if how.repetition_penalty != 1:
            scores = _penalized(scores, self._seen, how.repetition_penalty)
        chosen = self._draw(scores) if how.do_sample else scores.argmax(axis=-1)
        tokens = np.where(self._done, how.pad, chosen).astype(np.int64)
        self._done |= np.isin(tokens, list(how.ends))
        self._seen = np.concatenate([self._seen, tokens[:, None]], axis=1)
        return tokens

    def _draw(self, scores: NDArray[Any]) -> NDArray[Any]:
        shares = _likely(scores / self._how.temperature, self._how.top_k, self._how.top_p)
        reached = shares.cumsum(axis=-1)
        points = self._random.random((len(shares), 1)) * reached[:, -1:]
        return np.asarray((reached <= points).sum(axis=-1).clip(max=shares.shape[1] - 1))


def _penalized(scores: NDArray[Any], seen: NDArray[Any], penalty: float) -> NDArray[Any]:
    old = np.take_along_axis(scores, seen, axis=1)
    scores = scores.copy()
    np.put_along_axis(scores, seen, np.where(old < 0, old * penalty, old / penalty), axis=1)
    return scores


def _likely(scores: NDArray[Any], top_k: int, top_p: float) -> NDArray[Any]:
    """Return probabilities; those of tokens that aren't likely enough are 0."""
    scores = np.asarray(scores, dtype=np.float64)
    if 0 < top_k < scores.shape[1]:
        least = np.partition(scores, -top_k, axis=-1)[:, -top_k, None]
        scores = np.where(scores < least, -np.inf, scores)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    if top_p < 1:
        order = np.argsort(-shares, axis=-1, kind="stable")
        ranked = np.take_along_axis(shares, order, axis=-1)
        before = ranked.cumsum(axis=-1) - ranked
        np.put_along_axis(shares, order, np.where(before >= top_p, 0.0, ranked), axis=-1)
    return np.asarray(shares)


Tokens = Iterator["NDArray[Any]"]
"""The tokens of one step after another, each [batch]."""
