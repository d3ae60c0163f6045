"""What a graph's outputs mean for its task, as lines to read and as values for JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.cli._exported import Arrays, Exported
from onnxport.cli._feeds import Given, feed_of, text_feed, tokenizer_of
from onnxport.errors import OptionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BEST = 5
_LONGEST_SPAN = 30
"""Tokens that an answer may have, as in today's pipelines."""


@dataclass(frozen=True)
class Answer:
    """Hold an answer.

    Attributes:
        lines: to read.
        values: for JSON.
    """

    lines: list[str]
    values: Any


def shapes(outputs: Arrays) -> Answer:
    """Tell each output's shape and first values."""
    values = {
        name: {"shape": list(array.shape), "first": array.reshape(-1)[:6].tolist()} for name, array in outputs.items()
    }
    lines = [f"{name} {entry['shape']}: {_first(entry['first'])}" for name, entry in values.items()]
    return Answer(lines, values)


def embeddings(exported: Exported, given: Given) -> Answer:
    """Tell each text's mean state over its tokens, and how similar the texts are (cosine)."""
    tokenizer = tokenizer_of(exported, given) if given.texts or given.input_ids else None
    feed = feed_of(exported, given, tokenizer)
    outputs = exported.run(feed)
    states = outputs.get("last_hidden_state")
    if states is None or "input_ids" not in feed or states.shape[:2] != feed["input_ids"].shape:
        return shapes(outputs)
    mask = feed.get("attention_mask", np.ones_like(feed["input_ids"]))[..., None]
    mean = (states * mask).sum(axis=1) / mask.sum(axis=1).clip(1)
    similar = _similarities(mean)
    lines = [f"last_hidden_state {list(states.shape)}"]
    lines += [f"text {i + 1}, mean over its tokens: {_first(row[:6].tolist())}" for i, row in enumerate(mean)]
    lines += [f"similarity {j + 1}-{i + 1}: {similar[i][j]:.4f}" for i in range(len(mean)) for j in range(i)]
    return Answer(lines, {"shape": list(states.shape), "embeddings": mean.tolist(), "similarities": similar})


def sentences(exported: Exported, given: Given) -> Answer:
    """Tell each text's embedding, and how similar the texts are (cosine)."""
    tokenizer = tokenizer_of(exported, given) if given.texts or given.input_ids else None
    longest = exported.directory.read("sentence_bert_config.json").get("max_seq_length")
    if tokenizer is not None and longest:
        tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
    vectors = exported.run(feed_of(exported, given, tokenizer))["sentence_embedding"]
    similar = _similarities(vectors)
    lines = [f"sentence_embedding {list(vectors.shape)}"]
    lines += [f"text {i + 1}: {_first(row[:6].tolist())}" for i, row in enumerate(vectors)]
    lines += [f"similarity {j + 1}-{i + 1}: {similar[i][j]:.4f}" for i in range(len(similar)) for j in range(i)]
    return Answer(lines, {"shape": list(vectors.shape), "embeddings": vectors.tolist(), "similarities": similar})


def _similarities(vectors: NDArray[Any]) -> list[list[float]]:
    """Return the cosine of every two rows."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    found: list[list[float]] = (unit @ unit.T).astype(float).round(4).tolist()
    return found


def fill_mask(exported: Exported, given: Given) -> Answer:
    """Tell the likeliest tokens at each mask; at every place where no tokenizer says which token is the mask."""
    tokenizer = tokenizer_of(exported, given)
    feed = text_feed(given, tokenizer)
    ids = feed["input_ids"]
    masked = ids == tokenizer.mask_token_id if tokenizer else np.ones_like(ids, dtype=bool)
    if not masked.any():
        raise OptionError(f"the text holds no mask: put {tokenizer.mask_token} where a token is to be found")
    logits = exported.run(feed)["logits"]
    lines, values = [], []
    for row, column in zip(*np.nonzero(masked), strict=True):
        best = _ranked(softmax(logits[row, column]), lambda index: _token(tokenizer, index))
        lines.append(f"text {row + 1}, token {column + 1}: {_shares(best)}")
        values.append({"text": int(row), "token": int(column), "best": best})
    return Answer(lines, values)


def classes(exported: Exported, given: Given) -> Answer:
    """Tell the likeliest classes of each text, picture or sound; the score itself where the model has only one."""
    logits = exported.run(feed_of(exported, given))["logits"]
    logits = logits.reshape(len(logits), -1)
    if exported.directory.config.get("problem_type") == "multi_label_classification":
        rows = 1 / (1 + np.exp(-logits))
    else:
        rows = softmax(logits) if logits.shape[1] > 1 else logits
    values = [_ranked(row, exported.label) for row in rows]
    return Answer([_shares(row) for row in values], values)


def tokens(exported: Exported, given: Given) -> Answer:
    """Tell the class of every token."""
    tokenizer = tokenizer_of(exported, given)
    feed = text_feed(given, tokenizer)
    rows = softmax(exported.run(feed)["logits"])
    special = set(tokenizer.all_special_ids) if tokenizer and given.texts else set()
    values = [
        [
            {"token": _token(tokenizer, i), "label": exported.label(int(row.argmax())), "score": float(row.max())}
            for i, row in zip(ids, states, strict=True)
            if int(i) not in special
        ]
        for ids, states in zip(feed["input_ids"], rows, strict=True)
    ]
    return Answer([" ".join(f"{entry['token']}/{entry['label']}" for entry in row) for row in values], values)


def span(exported: Exported, given: Given) -> Answer:
    """Tell the part of each text that answers the question."""
    if not given.question or not given.texts:
        raise OptionError("give a --question and the --context that answers it")
    tokenizer = exported.load("AutoTokenizer")
    feed = text_feed(given, tokenizer)
    outputs = exported.run(feed)
    values = []
    for row in range(len(given.texts)):
        allowed = _context_tokens(tokenizer, given.question, given.texts[row], feed["input_ids"][row])
        values.append(_best_span(outputs["start_logits"][row], outputs["end_logits"][row], allowed))
        start, end = values[-1]["start"], values[-1]["end"]
        values[-1]["answer"] = tokenizer.decode(feed["input_ids"][row][start : end + 1]).strip()
    return Answer([f"{value['answer']}  ({value['score']:.3f})" for value in values], values)


def choices(exported: Exported, given: Given) -> Answer:
    """Tell which of the second texts goes best with the first: the graph takes [1, choices, length]."""
    feed = {name: array[None] for name, array in text_feed(given, tokenizer_of(exported, given)).items()}
    shares = softmax(exported.run(feed)["logits"])[0]
    values = _ranked(shares, lambda index: f"choice {index + 1}")
    return Answer([_shares(values)], values)


def softmax(logits: NDArray[Any]) -> NDArray[Any]:
    """Turn scores into probabilities over the last axis."""
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


def _context_tokens(tokenizer: Any, question: str, text: str, ids: NDArray[Any]) -> NDArray[Any]:
    """Tell which tokens belong to the text, not to the question or to the tokenizer's own."""
    encoded = tokenizer(question, text, truncation=True)
    parts = encoded.sequence_ids(0) if tokenizer.is_fast else None
    if parts is None:
        own = np.isin(ids, tokenizer.all_special_ids)
        return np.asarray(~own & (np.arange(len(ids)) > len(tokenizer(question)["input_ids"]) - 1))
    before = len(ids) - len(parts) if tokenizer.padding_side == "left" else 0
    allowed = np.zeros(len(ids), dtype=bool)
    allowed[before : before + len(parts)] = [part == 1 for part in parts]
    return allowed


def _best_span(start: NDArray[Any], end: NDArray[Any], allowed: NDArray[Any]) -> dict[str, Any]:
    scores = softmax(start)[:, None] * softmax(end)[None, :] * (allowed[:, None] & allowed[None, :])
    ordered = np.triu(scores) - np.triu(scores, _LONGEST_SPAN)
    first, last = np.unravel_index(ordered.argmax(), ordered.shape)
    return {"start": int(first), "end": int(last), "score": float(ordered[first, last])}


def _ranked(scores: NDArray[Any], name: Callable[[int], str]) -> list[dict[str, Any]]:
    """Name the best, the best first; two may have one name."""
    order = np.argsort(-scores)[:_BEST]
    return [{"label": name(int(index)), "index": int(index), "score": float(scores[index])} for index in order]


def _token(tokenizer: Any, index: Any) -> str:
    """Write a token; characters that stand for spaces or bytes in the vocabulary are decoded."""
    if tokenizer is None:
        return str(index)
    return str(tokenizer.decode([int(index)]).strip() or tokenizer.convert_ids_to_tokens(int(index)) or index)


def _shares(ranked: list[dict[str, Any]]) -> str:
    return ", ".join(f"{entry['label']} {entry['score']:.3f}" for entry in ranked)


def _first(values: list[float]) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in values) + ", …]"
