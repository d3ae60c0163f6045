"""The options of the verbs that generate texts."""

from __future__ import annotations

import argparse
from typing import Any

_SETTINGS = ("max_new_tokens", "temperature", "top_k", "top_p", "repetition_penalty", "seed")


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add the options; what isn't given is read from the directory's generation settings."""
    add = parser.add_argument
    add("--max-new-tokens", type=count, metavar="N", help="tokens to generate at most")
    add("--temperature", type=float, metavar="X", help="draw tokens by chance: below 1 less, above 1 more freely")
    add("--top-k", type=int, metavar="N", help="draw among the N likeliest tokens only")
    add("--top-p", type=float, metavar="X", help="draw among the likeliest tokens that are X probable together")
    add("--repetition-penalty", type=float, metavar="X", help="make tokens that occurred less likely")
    add("--greedy", action="store_true", help="always take the likeliest token")
    add("--seed", type=int, metavar="N", help="of the random numbers: the same text again")


def sampling_from(arguments: argparse.Namespace, *, max_new_tokens: int) -> dict[str, Any]:
    """Return the settings that were given.

    Args:
        arguments: what was parsed.
        max_new_tokens: how many tokens where that wasn't given.
    """
    found = {name: getattr(arguments, name) for name in _SETTINGS if getattr(arguments, name) is not None}
    draws = any(name in found for name in ("temperature", "top_k", "top_p", "seed"))
    if arguments.greedy or draws:
        found["do_sample"] = not arguments.greedy
    return {"max_new_tokens": max_new_tokens, **found}


def count(text: str) -> int:
    """Read a number that is 1 or more.

    Raises:
        argparse.ArgumentTypeError: it isn't one.
    """
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a number that is 1 or more")
    return int(text)
