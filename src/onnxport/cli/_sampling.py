"""The options of the verbs that generate text."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxport.runtime.directory import Directory

_SETTINGS = ("max_new_tokens", "temperature", "top_k", "top_p", "repetition_penalty", "seed")


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add the options; their defaults are in the directory's `generation_config.json`."""
    add = parser.add_argument
    add("--max-new-tokens", type=positive_int, metavar="N", help="maximum number of tokens to generate")
    add("--temperature", type=float, metavar="X", help="sample with the logits divided by X")
    add("--top-k", type=int, metavar="N", help="sample from the N most probable tokens")
    add("--top-p", type=float, metavar="X", help="nucleus sampling: smallest set of tokens with probability >= X")
    add("--repetition-penalty", type=float, metavar="X", help="penalty for tokens that occurred before, 1 for none")
    add("--greedy", action="store_true", help="greedy decoding")
    add("--seed", type=int, metavar="N", help="random seed for sampling")


def sampling_from(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the parsed settings: those that were passed."""
    settings = {name: getattr(arguments, name) for name in _SETTINGS if getattr(arguments, name) is not None}
    samples = any(name in settings for name in ("temperature", "top_k", "top_p", "seed"))
    if arguments.greedy or samples:
        settings["do_sample"] = not arguments.greedy
    return settings


def with_length(settings: Mapping[str, Any], directory: Directory, max_new_tokens: int) -> dict[str, Any]:
    """Return settings with a number of tokens, unless they or the directory's settings have one.

    Args:
        settings: settings of Transformers' `generate`.
        directory: the exported directory.
        max_new_tokens: the default.
    """
    from onnxport.runtime.sampling import directory_settings

    defaults = directory_settings(directory.generation_config, directory.config)
    has_length = any(defaults.get(name) is not None for name in ("max_new_tokens", "max_length"))
    return dict(settings) if has_length else {"max_new_tokens": max_new_tokens, **settings}


def positive_int(text: str) -> int:
    """Parse an integer that is 1 or more.

    Raises:
        argparse.ArgumentTypeError: it isn't one.
    """
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} isn't an integer that is 1 or more")
    return int(text)
