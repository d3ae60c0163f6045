"""Logits processors in NumPy, which change scores as Transformers' processors of the same settings do."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def penalize_repetition(
    scores: NDArray[Any], token_ids: NDArray[Any], penalty: float, padding: NDArray[Any]
) -> NDArray[Any]:
    """Divide the scores of tokens that occurred by a penalty; multiply negative ones.

    Args:
        scores: [batch, vocabulary].
        token_ids: earlier tokens, [batch, length].
        penalty: the penalty, more than 0.
        padding: number of padding tokens before each sequence, which don't count, [batch].
    """
    counted = (np.arange(token_ids.shape[1]) >= padding[:, None]) & (token_ids < scores.shape[1])
    rows, columns = np.nonzero(counted)
    occurred = np.zeros(scores.shape, dtype=bool)
    occurred[rows, token_ids[rows, columns]] = True
    return np.where(occurred, np.where(scores < 0, scores * penalty, scores / penalty), scores)


def forbid_repeated_ngrams(scores: NDArray[Any], token_ids: NDArray[Any], size: int) -> NDArray[Any]:
    """Forbid tokens that would complete an n-gram of `size` tokens that occurred before."""
    length = token_ids.shape[1]
    if length < size:
        return scores
    windows = np.lib.stride_tricks.sliding_window_view(token_ids, size, axis=1)
    repeats = (windows[..., :-1] == token_ids[:, None, length + 1 - size :]).all(axis=-1)
    rows, columns = np.nonzero(repeats & (windows[..., -1] < scores.shape[1]))
    forbidden = np.zeros(scores.shape, dtype=bool)
    forbidden[rows, windows[rows, columns, -1]] = True
    return np.where(forbidden, -np.inf, scores)


def forbid_sequences(
    scores: NDArray[Any], token_ids: NDArray[Any], sequences: Collection[Sequence[int]]
) -> NDArray[Any]:
    """Forbid tokens that would complete one of these sequences of tokens."""
    scores = scores.copy()
    for *prefix, last in sequences:
        count = len(prefix)
        if count <= token_ids.shape[1] and last < scores.shape[1]:
            matches = (token_ids[:, token_ids.shape[1] - count :] == prefix).all(axis=-1)
            scores[matches, last] = -np.inf
    return scores


def forbid(scores: NDArray[Any], token_ids: Collection[int]) -> NDArray[Any]:
    """Forbid tokens; ids outside of the vocabulary have no effect."""
    return np.where(np.isin(np.arange(scores.shape[1]), list(token_ids)), -np.inf, scores)


def force(scores: NDArray[Any], token_ids: Collection[int]) -> NDArray[Any]:
    """Forbid all other tokens."""
    forced = np.where(np.isin(np.arange(scores.shape[1]), list(token_ids)), 0.0, -np.inf)
    return np.broadcast_to(forced.astype(scores.dtype), scores.shape)


def probabilities(scores: NDArray[Any], top_k: int, top_p: float, min_p: float) -> NDArray[Any]:
    """Return the probabilities to sample from, [batch, vocabulary], not normalized after filtering.

    Args:
        scores: [batch, vocabulary].
        top_k: tokens after the k most probable ones get 0; 0 keeps all.
        top_p: tokens outside of the smallest set with this probability get 0.
        min_p: tokens below this share of the most probable token get 0.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if 0 < top_k < scores.shape[1]:
        threshold = np.partition(scores, -top_k, axis=-1)[:, -top_k, None]
        scores = np.where(scores < threshold, -np.inf, scores)
    found = softmax(scores)
    if top_p < 1:
        order = np.argsort(-found, axis=-1, kind="stable")
        ranked = np.take_along_axis(found, order, axis=-1)
        before = ranked.cumsum(axis=-1) - ranked
        np.put_along_axis(found, order, np.where(before >= top_p, 0.0, ranked), axis=-1)
    return np.where(found < min_p * found.max(axis=-1, keepdims=True), 0.0, found)


def softmax(scores: NDArray[Any]) -> NDArray[Any]:
    """Return probabilities over the last axis, of the scores' dtype."""
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))
