"""Strategies for files that differ from valid ones: JSON values, headers with data, and bytes."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

NAMES = [
    "__proto__",
    "",
    "a",
    "../../secret",
    "/etc/passwd",
    "x" * 300,
    "\x1b[2J",
    "\ud800",
    "a\x00b",
    "é" * 130,
    "NaN",
]
SIZES = [-1, 0, 1, 2, 3, 7, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, 10**40]
SCALARS = (
    st.none()
    | st.booleans()
    | st.sampled_from(SIZES)
    | st.integers(-(10**6), 10**6)
    | st.floats()
    | st.sampled_from(NAMES)
    | st.text(max_size=20)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | st.text(), inner, max_size=4),
    max_leaves=8,
)


def places(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


@st.composite
def changed(draw: st.DrawFn, valid: Any) -> Any:
    """Return a JSON value with one to three values replaced, removed, added or nested."""
    value = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        paths = list(places(value))[1:]
        if not paths:
            return draw(VALUES)
        *outer, key = draw(st.sampled_from(paths))
        inner = value
        for part in outer:
            inner = inner[part]
        action = draw(st.sampled_from(["replace", "replace", "remove", "add", "nest"]))
        if action == "replace":
            inner[key] = draw(VALUES)
        elif action == "remove":
            del inner[key]
        elif action == "nest":
            inner[key] = draw(st.sampled_from([[inner[key]], {"a": inner[key]}]))
        elif isinstance(inner, dict):
            inner[draw(st.sampled_from(NAMES))] = draw(VALUES)
        else:
            inner.insert(0, draw(VALUES))
    return value


@st.composite
def changed_json(draw: st.DrawFn, valid: Any) -> bytes:
    """Return the text of a changed JSON value, or of one that is no JSON."""
    raw = json.dumps(draw(changed(valid))).encode()
    return draw(changed_bytes(raw)) if draw(st.integers(0, 4)) == 0 else raw


@st.composite
def changed_bytes(draw: st.DrawFn, valid: bytes) -> bytes:
    """Return bytes with some replaced, removed, repeated or cut off."""
    raw = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(len(raw) - 1, 0)))
        end = min(len(raw), start + draw(st.integers(0, 16)))
        action = draw(st.sampled_from(["replace", "number", "remove", "repeat", "cut"]))
        if action == "replace":
            raw[start:end] = draw(st.binary(max_size=16))
        elif action == "number":
            raw[start : start + 8] = struct.pack("<Q", draw(st.sampled_from(SIZES[1:10])))
        elif action == "remove":
            del raw[start:end]
        elif action == "repeat":
            raw[start:end] = raw[start:end] * draw(st.sampled_from([2, 50, 5000]))
        else:
            del raw[start:]
    return bytes(raw)


@st.composite
def changed_safetensors(draw: st.DrawFn, header: Any, data: bytes) -> bytes:
    """Return a safetensors file with a changed header, length of the header, or data."""
    raw = draw(changed_json(header)) if draw(st.booleans()) else json.dumps(header).encode()
    length = draw(st.sampled_from([len(raw)] * 4 + [0, len(raw) + 1, 2**32, 2**63, 2**64 - 1]))
    body = data if draw(st.booleans()) else draw(st.binary(max_size=len(data) + 8))
    return struct.pack("<Q", length) + raw + body
