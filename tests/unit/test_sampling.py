"""Logits processors in NumPy return what those of Transformers return, and settings come from a checkpoint's files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers.generation import logits_process

from onnxport.errors import OptionError
from onnxport.runtime import logits
from onnxport.runtime.sampling import GenerationSettings, TokenSampler, directory_settings, unsupported

VOCABULARY, LENGTH = 12, 9
END = 3


def example() -> tuple[np.ndarray, np.ndarray]:
    """Return token ids of two sequences that repeat themselves, and scores of the next token."""
    generator = np.random.default_rng(0)
    token_ids = generator.integers(0, 4, (2, LENGTH))
    token_ids[0, 0] = VOCABULARY + 3  # outside of the vocabulary of the scores
    return token_ids, generator.normal(size=(2, VOCABULARY)).astype(np.float32)


@pytest.mark.parametrize(
    ("settings", "processor"),
    [
        (
            {"repetition_penalty": 1.7},
            logits_process.RepetitionPenaltyLogitsProcessor(1.7, prompt_ignore_length=torch.tensor([0, 6])),
        ),
        ({"no_repeat_ngram_size": 1}, logits_process.NoRepeatNGramLogitsProcessor(1)),
        ({"no_repeat_ngram_size": 2}, logits_process.NoRepeatNGramLogitsProcessor(2)),
        ({"no_repeat_ngram_size": 3}, logits_process.NoRepeatNGramLogitsProcessor(3)),
        (
            {"bad_words_ids": [[5], [2, 7], [END], [1, 1, 8], list(range(11))]},
            logits_process.NoBadWordsLogitsProcessor([[5], [2, 7], [END], [1, 1, 8], list(range(11))], END),
        ),
        ({"min_length": LENGTH + 1}, logits_process.MinLengthLogitsProcessor(LENGTH + 1, END)),
        ({"min_length": LENGTH}, logits_process.MinLengthLogitsProcessor(LENGTH, END)),
        ({"min_new_tokens": 1}, logits_process.MinNewTokensLengthLogitsProcessor(LENGTH, 1, END)),
        ({"min_new_tokens": 0}, logits_process.MinNewTokensLengthLogitsProcessor(LENGTH, 0, END)),
        (
            {"forced_eos_token_id": [END, 4], "max_new_tokens": 1},
            logits_process.ForcedEOSTokenLogitsProcessor(LENGTH + 1, [END, 4]),
        ),
        (
            {"forced_eos_token_id": END, "max_length": LENGTH + 2},
            logits_process.ForcedEOSTokenLogitsProcessor(LENGTH + 2, END),
        ),
        ({"suppress_tokens": [1, 8]}, logits_process.SuppressTokensLogitsProcessor([1, 8])),
        (
            {"begin_suppress_tokens": [1, 8]},
            logits_process.SuppressTokensAtBeginLogitsProcessor([1, 8], LENGTH),
        ),
    ],
)
def test_scores_are_those_of_transformers(settings: dict[str, Any], processor: Any) -> None:
    token_ids, scores = example()
    mask = np.ones_like(token_ids)
    mask[1, :6] = 0
    built = GenerationSettings.from_defaults({**settings, "eos_token_id": END}, {})
    found = TokenSampler(built, token_ids, mask).process(scores)
    expected = processor(torch.from_numpy(token_ids), torch.from_numpy(scores.copy())).numpy()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_the_first_token_is_forced_after_a_start_token() -> None:
    _, scores = example()
    start = np.array([[0], [0]])
    defaults = {"forced_bos_token_id": 5, "begin_suppress_tokens": [scores[0].argmax()], "eos_token_id": END}
    sampler = TokenSampler(GenerationSettings.from_defaults(defaults, {}), start)
    processor = logits_process.ForcedBOSTokenLogitsProcessor(5)
    expected = processor(torch.from_numpy(start), torch.from_numpy(scores.copy())).numpy()
    np.testing.assert_array_equal(sampler.process(scores), expected)
    assert sampler.next_tokens(scores).tolist() == [5, 5]
    assert sampler.next_tokens(scores)[0] != scores[0].argmax()  # suppressed after the forced token
    assert sampler.next_tokens(scores)[0] == scores[0].argmax()


@pytest.mark.parametrize(("top_k", "top_p", "min_p"), [(3, 1.0, 0.0), (0, 0.7, 0.0), (0, 1.0, 0.3), (6, 0.9, 0.2)])
def test_probabilities_are_those_of_transformers(top_k: int, top_p: float, min_p: float) -> None:
    token_ids, scores = example()
    filters = [
        *([logits_process.TopKLogitsWarper(top_k)] if top_k else []),
        *([logits_process.TopPLogitsWarper(top_p)] if top_p < 1 else []),
        *([logits_process.MinPLogitsWarper(min_p)] if min_p else []),
    ]
    expected = torch.from_numpy(scores)
    for one in filters:
        expected = one(torch.from_numpy(token_ids), expected)
    found = logits.probabilities(scores, top_k, top_p, min_p)
    np.testing.assert_allclose(found / found.sum(-1, keepdims=True), expected.softmax(-1).numpy(), atol=1e-6)


def test_a_length_of_the_checkpoint_is_kept_unless_another_is_passed() -> None:
    defaults = {"max_length": 12}
    assert GenerationSettings.from_defaults(defaults, {}).last_length(5) == 12
    assert GenerationSettings.from_defaults(defaults, {"max_new_tokens": 3}).last_length(5) == 8
    assert GenerationSettings.from_defaults({"max_new_tokens": 3}, {"max_length": 12}).last_length(5) == 12
    assert GenerationSettings.from_defaults({}, {}).last_length(5) == 5 + 256
    with pytest.raises(OptionError, match="max_length is 12, and the prompt has 12 tokens: pass max_new_tokens"):
        GenerationSettings.from_defaults(defaults, {}).last_length(12)


def test_settings_without_an_effect_are_named() -> None:
    settings = {"num_beams": 4, "encoder_no_repeat_ngram_size": 0, "typical_p": 0.9, "top_k": 3, "guidance_scale": 1.5}
    assert unsupported(settings) == ["guidance_scale=1.5", "num_beams=4"]
    assert unsupported({**settings, "do_sample": True}) == ["guidance_scale=1.5", "num_beams=4", "typical_p=0.9"]
    assert unsupported({"num_beams": 1, "stop_strings": None, "_from_model_config": True}) == []


def test_settings_of_the_configuration_count_without_a_generation_config() -> None:
    config = {"num_beams": 2, "decoder": {"no_repeat_ngram_size": 3, "num_beams": 5}}
    assert directory_settings({}, config)["num_beams"] == 2
    assert directory_settings({}, config)["no_repeat_ngram_size"] == 3
    assert directory_settings({"min_length": 2}, config) == {"min_length": 2}
