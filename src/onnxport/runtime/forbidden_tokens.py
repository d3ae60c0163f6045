"""Logits processors of Transformers that forbid tokens, without comparing the whole vocabulary in each step.

Transformers searches for each id of the vocabulary among the forbidden ones (`torch.isin`), in each step and also where
a processor forbids nothing. For the 51,865 tokens of Whisper that takes 1 ms for each of up to four processors, of a
step of 6 ms of whisper-tiny; the ids are given. Processors that follow each other write to the scores once. The scores
are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

_Rule = tuple[Callable[[int], bool], torch.Tensor]
"""Whether tokens are forbidden after a number of tokens, and their ids."""
_RULES: dict[type[LogitsProcessor], Callable[..., _Rule]] = {
    SuppressTokensLogitsProcessor: lambda one: (lambda _: True, one.suppress_tokens),
    SuppressTokensAtBeginLogitsProcessor: lambda one: (
        lambda length: length == one.begin_index,
        one.begin_suppress_tokens,
    ),
    MinLengthLogitsProcessor: lambda one: (lambda length: length < one.min_length, one.eos_token_id),
    MinNewTokensLengthLogitsProcessor: lambda one: (
        lambda length: length - one.prompt_length_to_skip < one.min_new_tokens,
        one.eos_token_id,
    ),
}


class _Forbidding(LogitsProcessor):  # type: ignore[misc]
    """Set the scores of tokens that any of some processors forbids to minus infinity."""

    def __init__(self, processors: Iterable[LogitsProcessor]) -> None:
        self._rules = [_RULES[type(one)](one) for one in processors]
        self._known: dict[tuple[int, ...], torch.Tensor] = {}

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores `[sequences, vocabulary]`; ids that aren't in the vocabulary are ignored."""
        length, vocabulary = input_ids.shape[-1], scores.shape[-1]
        applied = tuple(index for index, (applies, _) in enumerate(self._rules) if applies(length))
        if not applied:
            return scores
        if applied not in self._known:
            ids = torch.cat([self._rules[index][1].to(scores.device) for index in applied])
            self._known[applied] = ids[(ids >= 0) & (ids < vocabulary)]
        return scores.index_fill(-1, self._known[applied], -torch.inf)


def by_token_ids(processors: LogitsProcessorList) -> LogitsProcessorList:
    """Return processors of which those that forbid tokens write to the scores of these tokens alone.

    Args:
        processors: those of a call of `generate`; instances of other classes, subclasses too, are kept.
    """
    new = LogitsProcessorList()
    for forbids, group in groupby(processors, lambda one: type(one) in _RULES):
        members = list(group)
        new += [_Forbidding(members)] if forbids else members
    return new
