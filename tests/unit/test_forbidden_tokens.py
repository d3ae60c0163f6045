"""Processors that forbid tokens give the scores of Transformers' own, in every step."""

import pytest
import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
)

from onnxport.runtime.forbidden_tokens import by_token_ids

VOCABULARY = 20


PROCESSORS = [
    SuppressTokensLogitsProcessor([3, 5, 3, VOCABULARY, VOCABULARY + 7, -1]),
    SuppressTokensAtBeginLogitsProcessor([2, 4], begin_index=3),
    TemperatureLogitsWarper(0.5),
    MinLengthLogitsProcessor(4, [1, 7]),
    MinNewTokensLengthLogitsProcessor(2, 2, 1),
]


@pytest.mark.parametrize(
    "processors",
    [*([one] for one in PROCESSORS), PROCESSORS],
    ids=lambda processors: "-".join(type(one).__name__ for one in processors),
)
def test_scores_are_those_of_transformers(processors: list[LogitsProcessor]) -> None:
    processor = LogitsProcessorList(processors)
    faster = by_token_ids(processor)
    assert len(faster) == min(3, len(processors))
    generator = torch.Generator().manual_seed(0)
    for length in range(1, 7):
        ids = torch.zeros((2, length), dtype=torch.long)
        scores = torch.randn(2, VOCABULARY, generator=generator)
        given = scores.clone()
        torch.testing.assert_close(faster(ids, scores), processor(ids, given), rtol=0, atol=0)
        torch.testing.assert_close(scores, given, rtol=0, atol=0)
