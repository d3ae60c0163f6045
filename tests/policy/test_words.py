"""Identifiers, docstrings, messages and documentation use the terms of Transformers, PyTorch and ONNX."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.policy.source import FILES, REPOSITORY, label

REPLACED = {
    "picture": "image",
    "sound": "audio",
    "hear": "take audio",
    "hears": "takes audio",
    "heard": "audio input",
    "sees": "takes images, attends to",
    "speak": "generate speech",
    "speaks": "generates speech",
    "remember": "cache",
    "remembers": "caches",
    "remembered": "cached",
    "twin": "isomorphic or repeated layer",
    "tower": "encoder",
    "foresee": "predict",
    "foreseen": "predicted",
}
"""A word of everyday language to the term that the field has for it."""
ONLY_IN_IDENTIFIERS = {"said": "outputs", "says": "returns"}
UPSTREAM = ("audio_tower", "vision_tower", "vision_tower_config", '"towers"')
"""Names that have such a word in them and must stay: Transformers' own, and an option in manifests of format 1."""
GENERATED = ("coverage.md", "benchmarks.md", "conformance-4.37.md")
"""Pages that quote the messages of earlier versions; their commands write them anew."""
PROSE = re.compile(rf"\b({'|'.join(REPLACED)})s?\b", re.I)
PARTS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def in_prose(text: str) -> Iterator[str]:
    """Yield the words of a text that have a better term."""
    for name in UPSTREAM:
        text = text.replace(name, "")
    yield from (match[0] for match in PROSE.finditer(text.replace("_", " ")))


def in_module(path: Path) -> Iterator[str]:
    """Yield `line: word` for the identifiers, strings and comments of a module."""
    source = path.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME and token.string not in UPSTREAM:
            parts = {part.lower().removesuffix("s") for part in PARTS.findall(token.string)}
            whole = {part.lower() for part in PARTS.findall(token.string)}
            found = sorted((parts | whole) & {*REPLACED, *ONLY_IN_IDENTIFIERS})
        elif token.type in (tokenize.STRING, tokenize.COMMENT):
            found = list(in_prose(token.string))
        else:
            continue
        yield from (f"{label(path)}:{token.start[0]}: {word}" for word in found)


def test_the_source_uses_the_fields_words() -> None:
    found = [entry for path in FILES for entry in in_module(path)]
    assert not found, "\n".join(found)


def test_the_documentation_uses_the_fields_words() -> None:
    pages = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]
    found = [
        f"{page.name}:{number}: {word}"
        for page in pages
        if page.name not in GENERATED
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
        for word in in_prose(line)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("text", ["two pictures", "what it hears", "the text towers", "_padded_sound"])
def test_the_rule_finds_them(text: str) -> None:
    assert list(in_prose(text))


def test_names_of_transformers_are_allowed() -> None:
    assert not list(in_prose("the model's `audio_tower`"))
