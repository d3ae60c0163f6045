"""Read JSON objects from a checkpoint's files; errors name the file and the position."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from onnxport.errors import CheckpointNotFoundError, CorruptCheckpointError, brief

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def read_json_object(path: Path, *, purpose: str) -> dict[str, Any]:
    """Read a JSON file whose top level is an object.

    Args:
        path: the file.
        purpose: noun phrase for the file in messages, such as "the model's configuration".

    Raises:
        CheckpointNotFoundError: the file doesn't exist or can't be opened.
        CorruptCheckpointError: the file is empty, isn't UTF-8, isn't JSON, or its top level isn't an object.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CheckpointNotFoundError(
            f"{path}: {purpose} can't be read ({error.strerror or error}); check the path and its permissions"
        ) from error
    if not raw.strip():
        raise CorruptCheckpointError(f"{path}: {purpose} is empty (0 bytes of JSON); download or save the file again")
    return parse_json_object(raw, path, purpose=purpose)


def parse_json_object(raw: bytes, path: Path, *, purpose: str, position: int = 0) -> dict[str, Any]:
    """Parse a JSON object without duplicate names.

    Args:
        raw: UTF-8 text.
        path: file that the bytes are from, for messages.
        purpose: noun phrase for the bytes in messages.
        position: offset of the bytes in the file, for messages.

    Raises:
        CorruptCheckpointError: the bytes aren't UTF-8, aren't JSON, or aren't an object.
    """
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_repeats)
        if _SURROGATE.search(raw):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        offset = position + error.start
        raise CorruptCheckpointError(
            f"{path}: {purpose} isn't UTF-8 text (byte {offset} is 0x{raw[error.start]:02x}); "
            f"download or save the file again"
        ) from error
    except UnicodeEncodeError as error:
        raise CorruptCheckpointError(
            f"{path}: {purpose} has half of a surrogate pair ({error.object[error.start]!a}), which no text can have; "
            f"download or save the file again"
        ) from error
    except (ValueError, RecursionError) as error:
        raise CorruptCheckpointError(
            f"{path}: {purpose} isn't valid JSON ({_reason(error, raw)}); download or save the file again"
        ) from error
    if not isinstance(value, dict):
        raise CorruptCheckpointError(
            f"{path}: {purpose} must be a JSON object, found {_json_type(value)}; download or save the file again"
        )
    return value


class _RepeatedNameError(ValueError):
    """A JSON object has a duplicate name."""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        names: set[str] = set()
        for name, _ in pairs:
            if name in names:
                raise _RepeatedNameError(f"the name {brief(name)} occurs twice in one object")
            names.add(name)
    return unique


def _reason(error: Exception, raw: bytes) -> str:
    if isinstance(error, json.JSONDecodeError):
        at_end = error.pos >= len(raw.decode("utf-8", "replace").rstrip()) or error.msg.startswith("Unterminated")
        cut = ", the file seems cut off" if at_end else ""
        return f"{error.msg} at line {error.lineno} column {error.colno}{cut}"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(error)


def _json_type(value: object) -> str:
    if value is None:
        return "null"
    names = {list: "an array", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)
