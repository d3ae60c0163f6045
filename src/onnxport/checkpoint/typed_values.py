"""Check the values of a JSON file against type hints, so that a wrong type is an error where the file is read."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from onnxport.errors import brief

_T = TypeVar("_T")
_NAMES: dict[object, str] = {
    str: "a string", int: "an integer", float: "a number", bool: "true or false", NoneType: "null",
    tuple: "a list", list: "a list", dict: "an object",
}  # fmt: skip


def typed(value: object, hint: type[_T], name: str) -> _T:
    """Return a value of a parsed JSON file as an instance of a type.

    Args:
        value: strings, numbers, booleans, None, lists and dictionaries.
        hint: dataclass, `str`, `int`, `float`, `bool`, `Literal`, list, tuple or dictionary of them, union of them, or
            `Any`. Lists become tuples if the hint is a tuple, and objects become dataclasses; fields with a default may
            be missing.
        name: name of the value, for messages.

    Raises:
        ValueError: it has another type; the message names the innermost value.
    """
    return cast("_T", _convert(value, hint, name))


def field_of(values: Mapping[str, object], name: str, hint: type[_T]) -> _T | None:
    """Return a value of a JSON object as an instance of a type; None if it is missing or null.

    Raises:
        ValueError: see `typed`.
    """
    found = values.get(name)
    return None if found is None else typed(found, hint, name)


def _convert(value: object, hint: object, name: str) -> object:
    origin = get_origin(hint) or hint
    if origin in (Union, UnionType):
        return _convert_union(value, get_args(hint), name)
    if hint is Any or hint is object:
        return value
    if origin is Literal:
        if value not in get_args(hint):
            raise ValueError(f"{name} is {brief(value)}, not one of {', '.join(map(repr, get_args(hint)))}")
        return value
    if isinstance(origin, type) and is_dataclass(origin):
        return _convert_fields(value, origin, name)
    if origin in (list, tuple, Sequence):
        return _convert_items(value, hint, name)
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        _, inner = get_args(hint) or (str, Any)
        return {key: _convert(item, inner, f"{name}.{_shown(key)}") for key, item in value.items()}
    return _convert_scalar(value, hint, name)


def _convert_scalar(value: object, hint: object, name: str) -> object:
    is_number = hasattr(value, "__index__") or isinstance(value, float)
    if hint is float and is_number and not isinstance(value, bool):
        return float(cast("float", value))
    if hint is int and not isinstance(value, bool):
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if hasattr(value, "__index__"):
            return operator.index(cast("int", value))
    if hint in (str, bool, NoneType) and type(value) is hint:
        return value
    raise ValueError(f"{name} is {brief(value)}, not {_described(hint)}")


def _convert_union(value: object, hints: tuple[object, ...], name: str) -> object:
    matching = [hint for hint in hints if _is_similar(value, hint)]
    if not matching:
        raise ValueError(f"{name} is {brief(value)}, not {' or '.join(map(_described, hints))}")
    return _convert(value, matching[0], name)


def _is_similar(value: object, hint: object) -> bool:
    """Return whether a value has a type's outermost type."""
    origin = get_origin(hint) or hint
    if isinstance(value, Mapping):
        return origin in (dict, Mapping) or (isinstance(origin, type) and is_dataclass(origin))
    if isinstance(value, list | tuple):
        return origin in (list, tuple, Sequence)
    if origin is Literal:
        return value in get_args(hint)
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return hint is type(value)
    return hint in (int, float)


def _convert_items(value: object, hint: object, name: str) -> object:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} is {brief(value)}, not {_described(get_origin(hint) or hint)}")
    hints = get_args(hint) or (Any,)
    is_tuple = get_origin(hint) is tuple
    if is_tuple and len(hints) > 1 and hints[1] is not Ellipsis:
        if len(value) != len(hints):
            raise ValueError(f"{name} has {len(value)} items, not {len(hints)}")
        return tuple(_convert(item, of, f"{name}[{i}]") for i, (item, of) in enumerate(zip(value, hints, strict=True)))
    items = [_convert(item, hints[0], f"{name}[{i}]") for i, item in enumerate(value)]
    return tuple(items) if is_tuple else items


def _convert_fields(value: object, kind: type, name: str) -> object:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name or 'the content'} is {brief(value)}, not an object")
    hints, prefix = get_type_hints(kind), f"{name}." if name else ""
    known = {field.name: field for field in fields(kind)}
    if unknown := [key for key in value if key not in known]:
        raise ValueError(f"{prefix}{_shown(unknown[0])} isn't a known field")
    for field in known.values():
        if field.name not in value and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{prefix}{field.name} is missing")
    return kind(**{key: _convert(item, hints[key], f"{prefix}{key}") for key, item in value.items()})


def _shown(key: object) -> str:
    text = str(key)
    return text if text.isidentifier() and len(text) <= 60 else brief(text)


def _described(hint: object) -> str:
    origin = get_origin(hint) or hint
    if origin is Literal:
        return " or ".join(map(repr, get_args(hint)))
    return _NAMES.get(origin, "an object")
