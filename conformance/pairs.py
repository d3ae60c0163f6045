"""The table of pairs: tiny configuration, preprocessor and features of each model type."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any


@cache
def table() -> dict[str, dict[str, Any]]:
    """Return the entry of each model type in `pairs.json`.

    Keys of an entry: `config` (class, arguments), `config_for` (changed arguments per feature), `preprocessor`
    (`class`, `special` and `special_pair`: number of special tokens around a sequence or a pair, `unk`,
    `token_type_ids`, `image_size`), `features` (feature to model class in 4.37.2).
    """
    return dict(json.loads(Path(__file__).with_name("pairs.json").read_text()))


def pairs() -> list[tuple[str, str]]:
    """Return all (model type, feature) pairs, in the table's order."""
    return [(model_type, feature) for model_type, entry in table().items() for feature in entry["features"]]


def parse(text: str) -> list[tuple[str, str]]:
    """Return the pairs of a comma-separated list of `type:feature` or `type`.

    Raises:
        ValueError: a pair isn't in the table.
    """
    found = []
    for item in text.split(","):
        model_type, _, feature = item.strip().partition(":")
        chosen = [pair for pair in pairs() if pair[0] == model_type and feature in ("", pair[1])]
        if not chosen:
            raise ValueError(f"{item!r} is not in conformance/pairs.json; write type:feature, as in bert:default")
        found += chosen
    return found


SAMPLE = (
    ("albert", "question-answering"),
    ("beit", "image-classification"),
    ("bert", "multiple-choice"),
    ("layoutlmv3", "token-classification"),
    ("marian", "seq2seq-lm-with-past"),
    ("perceiver", "masked-lm"),
    ("vision-encoder-decoder", "vision2seq-lm"),
)
"""Pairs with all types of inputs and caches, for `make test`."""
