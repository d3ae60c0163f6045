"""The columns of predictions: embeddings, and labels with scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.errors import UnsupportedError
from onnxport.runtime.logits import softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray

EMBEDDING, LABEL, SCORE, TRANSCRIPTION = "embedding", "label", "score", "transcription"
_MATRIX, _FEATURE_MAPS = 2, 4
"""Ranks of one vector for each row, and of feature maps [rows, channels, height, width]."""


def embeddings(outputs: Mapping[str, NDArray[Any]], feed: Mapping[str, Any], kind: str) -> NDArray[np.float32]:
    """Return one vector for each row, [rows, size].

    Args:
        outputs: the graph's outputs.
        feed: its inputs.
        kind: `text`, `image` or `audio`.

    Raises:
        UnsupportedError: the graph returns no embeddings.
    """
    pooled = () if kind == "text" else ("pooler_output",)
    for name in ("sentence_embedding", f"{kind}_embeds", *pooled):
        if name in outputs and outputs[name].ndim == _MATRIX:
            return outputs[name].astype(np.float32)
    states = outputs.get("last_hidden_state")
    if states is None:
        raise UnsupportedError(
            f"the graph returns {', '.join(outputs)}, no embeddings: export it for sentence-similarity"
        )
    states = states.astype(np.float32)
    if states.ndim == _FEATURE_MAPS:
        return np.asarray(states.mean(axis=(2, 3)))
    mask = feed.get("attention_mask")
    if mask is None or mask.shape != states.shape[:2]:
        return np.asarray(states.mean(axis=1))
    weights = mask.astype(np.float32)[..., None]
    return np.asarray((states * weights).sum(axis=1) / weights.sum(axis=1))


def labels(logits: NDArray[Any], config: Mapping[str, Any]) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Return the most probable label of each row, and its probability; the value for a regression.

    Args:
        logits: [rows, labels].
        config: contents of `config.json`: the names of the labels and the type of problem, of which
            `multi_label_classification` has independent probabilities (sigmoid instead of softmax).
    """
    logits = logits.astype(np.float32)
    problem, best = config.get("problem_type"), logits.argmax(axis=-1)
    if problem == "multi_label_classification":
        values = 1 / (1 + np.exp(-logits))
    elif problem == "regression" or logits.shape[-1] == 1:
        values = logits
    else:
        values = softmax(logits)
    names = config.get("id2label") or {}
    found = [str(names.get(str(index), f"LABEL_{index}")) for index in best]
    return np.array(found, dtype=object), np.take_along_axis(values, best[:, None], axis=-1)[:, 0]
