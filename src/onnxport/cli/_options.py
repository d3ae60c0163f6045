"""Command-line options, generated from the fields of `ExportOptions`: one source for the API and the command."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from dataclasses import fields
from fractions import Fraction
from typing import Any, Literal, get_args, get_origin, get_type_hints

from onnxport.options import ExportOptions, QuantizeOptions


def add_options(parser: argparse.ArgumentParser, names: Iterable[str] | None = None) -> None:
    """Add an option for each field.

    Args:
        parser: parser of a verb.
        names: fields to add; all by default.
    """
    hints = get_type_hints(ExportOptions)
    selected = set(names) if names is not None else {field.name for field in fields(ExportOptions)}
    for field in fields(ExportOptions):
        if field.name not in selected:
            continue
        flag, text = f"--{field.name.replace('_', '-')}", field.metadata["help"].replace("%", "%%")
        if hints[field.name] is bool:
            _add_flag(parser, field.name, text, default=bool(field.default))
            continue
        convert, choices = _PARSERS.get(field.name), None
        if convert is None:
            convert, choices = _type_and_choices(hints[field.name])
        default = f" (default: {field.default})" if isinstance(field.default, str) else ""
        parser.add_argument(flag, type=convert, choices=choices, default=field.default, help=text + default)


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """Add the option that chooses one of the precisions of a directory."""
    text = "precision of the graphs, for a directory with several (default: the first)"
    parser.add_argument("--dtype", metavar="NAME", help=text)


def _add_flag(parser: argparse.ArgumentParser, name: str, text: str, *, default: bool) -> None:
    """Add an option without a value: `--name`, or `--no-name` if the default is True."""
    flag = name.replace("_", "-")
    if default:
        parser.add_argument(f"--no-{flag}", dest=name, action="store_false", help=f"don't {text}")
    else:
        parser.add_argument(f"--{flag}", action="store_true", help=text)


def options_from(arguments: argparse.Namespace) -> ExportOptions:
    """Return the parsed options; fields that aren't options of the verb have their defaults.

    Raises:
        OptionError: a value is out of range.
    """
    names = {field.name for field in fields(ExportOptions)}
    return ExportOptions(**{name: value for name, value in vars(arguments).items() if name in names})


def _type_and_choices(hint: Any) -> tuple[Callable[[str], Any], tuple[str, ...] | None]:
    """Return argparse's `type` and `choices` for a type hint; the choices are those of a `Literal`."""
    options = [arg for arg in get_args(hint) if arg is not type(None)] if get_origin(hint) is not Literal else [hint]
    option = options[0] if options else hint
    if get_origin(option) is Literal:
        return str, get_args(option)
    return option, None


def bytes_from(text: str) -> int:
    """Parse a size in bytes with an optional unit, such as `8GiB`, `1.5 GB` or `500000`.

    Raises:
        argparse.ArgumentTypeError: it isn't one.
    """
    match = re.fullmatch(r"\s*([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([a-z]*)\s*", text, re.I)
    factor = _UNITS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} isn't a size: pass a number and one of B, kB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB "
            "(powers of 1024), such as 8GiB"
        )
    return int(Fraction(match[1]) * factor)


def sizes_from(text: str) -> dict[str, int]:
    """Parse the sizes of axes, such as `batch_size=1,sequence_length=128`.

    Raises:
        argparse.ArgumentTypeError: a part isn't an axis and its size, or an axis is named twice.
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*([A-Za-z_]\w*)\s*=\s*([0-9]{1,10})\s*", part)
        if match is None or match[1] in sizes:
            problem = "names an axis twice" if match else f"{part!r} isn't an axis and its size"
            raise argparse.ArgumentTypeError(f"{text!r}: {problem}; pass batch_size=1,sequence_length=128")
        sizes[match[1]] = int(match[2])
    return sizes


def quantize_options_from(text: str) -> QuantizeOptions:
    """Parse options of quantization, such as `block_size=32,symmetric,lm_head=8`.

    Raises:
        argparse.ArgumentTypeError: a part isn't an option and its value.
        OptionError: a value is out of range.
    """
    hints = get_type_hints(QuantizeOptions)
    values: dict[str, Any] = {}
    for part in text.split(","):
        name, _, value = (item.strip() for item in part.partition("="))
        is_flag = hints.get(name) is bool
        if (
            name not in hints
            or name in values
            or not ((is_flag and value in _FLAGS) or (not is_flag and value.isdigit()))
        ):
            raise argparse.ArgumentTypeError(
                f"{part!r} isn't one of {', '.join(hints)} with its value, once each; pass block_size=32,lm_head=8"
            )
        values[name] = _FLAGS[value] if is_flag else int(value)
    return QuantizeOptions(**values)


def names_from(text: str) -> tuple[str, ...]:
    """Parse a list of names, such as `hidden_states,attentions`."""
    return tuple(name.strip() for name in text.split(","))


_UNITS = {"": 1, "b": 1} | {
    f"{prefix}{suffix}": base ** (power + 1)
    for power, prefix in enumerate("kmgt")
    for suffix, base in (("b", 1000), ("ib", 1024))
}
_FLAGS = {"": True, "true": True, "1": True, "false": False, "0": False}
_PARSERS: dict[str, Callable[[str], Any]] = {
    "memory": bytes_from,
    "outputs": names_from,
    "fix": sizes_from,
    "quantize_options": quantize_options_from,
}
"""Fields with a custom parser."""
