"""Tasks whose pipelines Transformers 5 removed or never had: question answering and multiple choice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.cli import _preprocess
from onnxport.cli._request import RunRequest, RunResult
from onnxport.errors import OptionError
from onnxport.runtime.directory import Directory
from onnxport.runtime.light import LightModel
from onnxport.runtime.logits import softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

_MAX_ANSWER_TOKENS = 30
"""Longest answer, twice that of Transformers 4's pipeline (`max_answer_len`)."""


def question_answering(directory: Directory, request: RunRequest) -> RunResult:
    """Return the span of each context that answers the question.

    Raises:
        OptionError: there is no question, or no context.
    """
    if not request.question or not request.texts:
        raise OptionError("pass a --question, and a --context that has the answer")
    tokenizer = _preprocess.load(directory, "AutoTokenizer")
    feed = _preprocess.token_inputs(tokenizer, request)
    outputs = LightModel(directory)(**feed)
    values = []
    for row, context in enumerate(request.texts):
        ids = feed["input_ids"][row]
        in_context = _context_mask(tokenizer, request.question, context, ids)
        logits = np.stack([outputs["start_logits"][row], outputs["end_logits"][row]]).astype(np.float32)
        span = _best_span(logits, in_context, in_context | (ids == tokenizer.cls_token_id))
        span["answer"] = tokenizer.decode(ids[span["start"] : span["end"] + 1]).strip()
        values.append(span)
    return RunResult([f"{value['answer']}  ({value['score']:.3f})" for value in values], values)


def multiple_choice(directory: Directory, request: RunRequest) -> RunResult:
    """Return the probability of each choice; the graph's inputs are [1, choices, length]."""
    tokenizer = _preprocess.load(directory, "AutoTokenizer")
    feed = {name: array[None] for name, array in _preprocess.token_inputs(tokenizer, request).items()}
    (scores,) = softmax(LightModel(directory)(**feed)["logits"].astype(np.float32))
    order = np.argsort(-scores)
    values = [{"label": f"choice {i + 1}", "index": int(i), "score": float(scores[i])} for i in order]
    return RunResult([", ".join(f"{value['label']} {value['score']:.3f}" for value in values)], values)


def _context_mask(
    tokenizer: PreTrainedTokenizerBase, question: str, context: str, ids: NDArray[Any]
) -> NDArray[np.bool_]:
    """Return a mask of the context's tokens, without the question, special tokens and padding."""
    encoded = tokenizer(question, context, truncation=True)
    sequence_ids = encoded.sequence_ids(0) if tokenizer.is_fast else None
    if sequence_ids is None:
        special = np.isin(ids, tokenizer.all_special_ids)
        return np.asarray(~special & (np.arange(len(ids)) > len(tokenizer(question)["input_ids"]) - 1))
    offset = len(ids) - len(sequence_ids) if tokenizer.padding_side == "left" else 0
    mask = np.zeros(len(ids), dtype=bool)
    mask[offset : offset + len(sequence_ids)] = [sequence == 1 for sequence in sequence_ids]
    return mask


def _best_span(logits: NDArray[Any], allowed: NDArray[np.bool_], counted: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the most probable span, as the pipeline of Transformers 4.37 does.

    Args:
        logits: of the first and the last token, [2, length].
        allowed: tokens that the answer may have, [length].
        counted: tokens whose probabilities add up to 1, [length]: of the context, and the first, for no answer.
    """
    start, end = softmax(np.where(counted, logits, np.finfo(np.float32).min)) * allowed
    scores = start[:, None] * end[None, :]
    spans = np.triu(scores) - np.triu(scores, _MAX_ANSWER_TOKENS)
    first, last = np.unravel_index(spans.argmax(), spans.shape)
    return {"start": int(first), "end": int(last), "score": float(spans[first, last])}
