"""Command-line options, made from the fields of `ExportOptions`: one source for the API and the command."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from dataclasses import fields
from fractions import Fraction
from typing import Any, Literal, get_args, get_origin, get_type_hints

from onnxport.options import ExportOptions


def add_options(parser: argparse.ArgumentParser, names: Iterable[str] | None = None) -> None:
    """Add an option for each field.

    Args:
        parser: parser of a verb.
        names: fields to add, all without.
    """
    hints = get_type_hints(ExportOptions)
    wanted = set(names) if names is not None else {field.name for field in fields(ExportOptions)}
    for field in fields(ExportOptions):
        if field.name not in wanted:
            continue
        flag, text = f"--{field.name.replace('_', '-')}", field.metadata["help"].replace("%", "%%")
        if hints[field.name] is bool:
            _add_switch(parser, field.name, text, default=bool(field.default))
            continue
        kind, choices = _PARSERS.get(field.name), None
        if kind is None:
            kind, choices = _type(hints[field.name])
        default = f" (default: {field.default})" if field.default is not None else ""
        parser.add_argument(flag, type=kind, choices=choices, default=field.default, help=text + default)


def _add_switch(parser: argparse.ArgumentParser, name: str, text: str, *, default: bool) -> None:
    """Add an option without value: `--name`, or `--no-name` for what is on without it."""
    flag = name.replace("_", "-")
    if default:
        parser.add_argument(f"--no-{flag}", dest=name, action="store_false", help=f"don't {text}")
    else:
        parser.add_argument(f"--{flag}", action="store_true", help=text)


def options_from(arguments: argparse.Namespace) -> ExportOptions:
    """Return the options that were parsed; fields that the verb doesn't have keep their defaults.

    Raises:
        OptionError: a value is out of range.
    """
    known = {field.name for field in fields(ExportOptions)}
    return ExportOptions(**{name: value for name, value in vars(arguments).items() if name in known})


def _type(hint: Any) -> tuple[Callable[[str], Any], tuple[str, ...] | None]:
    """Return the type that a value is parsed with, and its choices where they are few."""
    options = [arg for arg in get_args(hint) if arg is not type(None)] if get_origin(hint) is not Literal else [hint]
    chosen = options[0] if options else hint
    if get_origin(chosen) is Literal:
        return str, get_args(chosen)
    return chosen, None


def bytes_from(text: str) -> int:
    """Read a number of bytes with a unit, such as `8GiB`, `1.5 GB` or `500000`.

    Raises:
        argparse.ArgumentTypeError: it isn't one.
    """
    found = re.fullmatch(r"\s*([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([a-z]*)\s*", text, re.I)
    factor = _UNITS.get(found[2].lower()) if found else None
    if found is None or factor is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} isn't a size: give a number and one of B, kB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB "
            "(powers of 1024), such as 8GiB"
        )
    return int(Fraction(found[1]) * factor)


_UNITS = {"": 1, "b": 1} | {
    f"{prefix}{suffix}": base ** (power + 1)
    for power, prefix in enumerate("kmgt")
    for suffix, base in (("b", 1000), ("ib", 1024))
}
_PARSERS: dict[str, Callable[[str], Any]] = {"memory": bytes_from}
"""Fields whose values aren't written as they are."""
