"""The file of one cache entry: a header that describes it, the content, and a digest over both."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import asdict, dataclass

MAGIC = b"\x89OXPC\r\n\n"
FORMAT = 1
"""Raised when the layout changes; entries of another format are dropped."""

_FIXED = len(MAGIC) + 2 + 4 + 8 + 32
"""Bytes before the header: magic, format, length of the header, length of the content, digest of both."""
_HEADER_LIMIT = 1 << 20
_LATEST = 1e11
"""A time, in seconds since 1970, that no entry is made at."""


class DamagedEntryError(Exception):
    """Say why a file can't be used as an entry."""


@dataclass(frozen=True)
class Header:
    """Say what an entry holds.

    Attributes:
        key: what it is looked up by.
        kind: type of the content.
        label: its name for people.
        created: when it was made, in seconds since 1970.
    """

    key: str
    kind: str
    label: str
    created: float


def packed(header: Header, content: bytes) -> bytes:
    """Return everything of an entry's file that comes before the content."""
    text = json.dumps(asdict(header)).encode()
    digest = hashlib.sha256(text)
    digest.update(content)
    lengths = len(text).to_bytes(4, "little") + len(content).to_bytes(8, "little")
    return MAGIC + FORMAT.to_bytes(2, "little") + lengths + digest.digest() + text


def read_entry(descriptor: int) -> tuple[Header, bytes]:
    """Read an entry and check every byte of it.

    Raises:
        DamagedEntryError: it isn't an entry, it is cut short, or a byte has changed.
        OSError: it can't be read.
    """
    header, text, length, digest = _read_start(descriptor)
    try:
        content = _read(descriptor, length)
    except MemoryError as error:
        raise DamagedEntryError("it doesn't fit into memory") from error
    found = hashlib.sha256(text)
    found.update(content)
    if found.digest() != digest:
        raise DamagedEntryError("its digest doesn't fit its content")
    return header, content


def read_header(descriptor: int) -> Header:
    """Read what an entry holds, without its content, whose bytes aren't checked.

    Raises:
        DamagedEntryError: it isn't an entry, or it is cut short.
        OSError: it can't be read.
    """
    return _read_start(descriptor)[0]


def _read_start(descriptor: int) -> tuple[Header, bytes, int, bytes]:
    """Return the header, the same as bytes, the length of the content and the digest."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise DamagedEntryError("it isn't a file")
    fixed = _read(descriptor, _FIXED)
    position = len(MAGIC)
    if fixed[:position] != MAGIC:
        raise DamagedEntryError("it isn't an entry of this cache")
    form = int.from_bytes(fixed[position : position + 2], "little")
    if form != FORMAT:
        raise DamagedEntryError(f"its format is {form}, and this version reads {FORMAT}")
    size = int.from_bytes(fixed[position + 2 : position + 6], "little")
    length = int.from_bytes(fixed[position + 6 : position + 14], "little")
    if size > _HEADER_LIMIT or status.st_size != _FIXED + size + length:
        raise DamagedEntryError(f"it has {status.st_size} bytes, not the {_FIXED + size + length} that it states")
    text = _read(descriptor, size)
    return _header(text), text, length, fixed[-32:]


def _header(text: bytes) -> Header:
    try:
        values = json.loads(text)
        created = float(values["created"])
        if not 0 <= created < _LATEST:
            raise ValueError(created)
        return Header(str(values["key"]), str(values["kind"]), str(values["label"]), created)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise DamagedEntryError("its header can't be read") from error


def _read(descriptor: int, count: int) -> bytes:
    parts = []
    while count:
        part = os.read(descriptor, count)
        if not part:
            raise DamagedEntryError("it is cut short")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
