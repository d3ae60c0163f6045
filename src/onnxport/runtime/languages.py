"""Tell a multilingual translator its languages, by the tokens that its tokenizer has for them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from onnxport.errors import OptionError

_LANGUAGE = re.compile(r"(?:__|>>)?([a-z]{2,3}(?:_[A-Za-z]{2,4})?)(?:__|<<)?")
"""Forms of language tokens: `fr_XX` (mBART), `fra_Latn` (NLLB), `__fr__` (M2M100), `>>fra<<` (Marian)."""


@dataclass(frozen=True)
class Languages:
    """Hold the languages of a translation, as the tokenizer's tokens name them.

    Attributes:
        source: language of the prompt; None for the tokenizer's default.
        target: language of the generated text; None for the checkpoint's default.
    """

    source: str | None = None
    target: str | None = None


def language_settings(
    languages: Languages, token_id: Callable[[str], int | None], known: Iterable[str] = ()
) -> tuple[dict[str, Any], str]:
    """Return how a translator is told its target language.

    Args:
        languages: the languages.
        token_id: returns the id of a token of the tokenizer, None for an unknown one.
        known: the tokenizer's special tokens, for the error.

    Returns:
        Settings of `generate`, and a prefix of the prompt. The first generated token is the target language's
        (`forced_bos_token_id`), or the prompt begins with it (Marian).

    Raises:
        OptionError: the tokenizer has no token for the target language.
    """
    if languages.target is None:
        return {}, ""
    prefix = f">>{languages.target}<< "
    if token_id(prefix.strip()) is not None:
        return {}, prefix
    return {"forced_bos_token_id": language_token_id("--target-language", languages.target, token_id, known)}, ""


def language_token_id(
    option: str, language: str, token_id: Callable[[str], int | None], known: Iterable[str] = ()
) -> int:
    """Return the id of a language's token.

    Args:
        option: what the error calls the language.
        language: the language.
        token_id: see `language_settings`.
        known: see `language_settings`.

    Raises:
        OptionError: there is none.
    """
    for token in (language, f"__{language}__"):
        if (index := token_id(token)) is not None:
            return index
    codes = sorted({match[1] for token in known if (match := _LANGUAGE.fullmatch(token))})
    similar = [code for code in codes if code.startswith(language)][:3]
    similar = similar or difflib.get_close_matches(language, codes, n=3, cutoff=0.5) or codes[:3]
    hint = (
        f"pass one of its {len(codes)}, such as {', '.join(similar)}"
        if codes
        else "if the model translates by an instruction, write it into the prompt"
    )
    raise OptionError(f"{option} {language}: the tokenizer has no token for this language; {hint}")
