"""A translator's target language: the tokens that tokenizers have for languages."""

from __future__ import annotations

import pytest

from onnxport.errors import OptionError
from onnxport.runtime.languages import Languages, language_settings

NLLB = {"eng_Latn": 7, "fra_Latn": 8, "</s>": 2}
M2M100 = {"__en__": 7, "__fr__": 8}
MARIAN = {">>fra<<": 9, "▁the": 4}


@pytest.mark.parametrize(
    ("vocabulary", "target", "expected"),
    [
        (NLLB, "fra_Latn", ({"forced_bos_token_id": 8}, "")),
        (M2M100, "fr", ({"forced_bos_token_id": 8}, "")),
        (MARIAN, "fra", ({}, ">>fra<< ")),
        (NLLB, None, ({}, "")),
    ],
)
def test_a_target_language_is_a_forced_token_or_a_prefix(
    vocabulary: dict[str, int], target: str | None, expected: tuple[dict[str, int], str]
) -> None:
    assert language_settings(Languages(target=target), vocabulary.get) == expected


@pytest.mark.parametrize(
    ("vocabulary", "target", "hint"),
    [
        (NLLB, "fra", r"pass one of its 2, such as fra_Latn"),
        (M2M100, "xx", r"pass one of its 2, such as en, fr"),
        ({"<extra_id_0>": 4}, "fr", r"if the model translates by an instruction, write it into the prompt"),
    ],
)
def test_an_unknown_language_names_similar_ones(vocabulary: dict[str, int], target: str, hint: str) -> None:
    with pytest.raises(OptionError, match=f"--target-language {target}: .*{hint}"):
        language_settings(Languages(target=target), vocabulary.get, vocabulary)
