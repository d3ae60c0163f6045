"""Encode and decode the file of a cache entry: a header with its metadata, the content, and a SHA-256 of both."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import dataclass

MAGIC = b"\x89OXPC\r\n\n"
FORMAT = 2
"""Version of the file layout; entries of other versions are dropped."""

_FIXED = len(MAGIC) + 2 + 4 + 8 + 32
"""Size in bytes of the fields before the header: magic, format, header length, content length, digest."""
_HEADER_LIMIT = 1 << 20
_LATEST = 1e11
"""Exclusive upper bound of plausible creation times, in seconds since the epoch."""


class DamagedEntryError(Exception):
    """A file isn't a valid entry."""


@dataclass(frozen=True)
class Header:
    """The metadata of an entry.

    Attributes:
        key: the key.
        type: type of the content, such as `blueprint`.
        label: name for display.
        created: creation time, in seconds since the epoch.
    """

    key: str
    type: str
    label: str
    created: float


def encode_start(header: Header, content: bytes) -> bytes:
    """Return the bytes of an entry's file before the content."""
    fields = {"key": header.key, "kind": header.type, "label": header.label, "created": header.created}
    text = json.dumps(fields).encode()
    digest = hashlib.sha256(text)
    digest.update(content)
    lengths = len(text).to_bytes(4, "little") + len(content).to_bytes(8, "little")
    return MAGIC + FORMAT.to_bytes(2, "little") + lengths + digest.digest() + text


def read_entry(descriptor: int) -> tuple[Header, bytes]:
    """Read an entry and verify its digest.

    Raises:
        DamagedEntryError: the file isn't an entry, or is truncated or modified.
        OSError: the file can't be read.
    """
    header, text, length, digest = _read_start(descriptor)
    try:
        content = _read(descriptor, length)
    except MemoryError as error:
        raise DamagedEntryError("it doesn't fit into memory") from error
    actual = hashlib.sha256(text)
    actual.update(content)
    if actual.digest() != digest:
        raise DamagedEntryError("its digest doesn't match its content")
    return header, content


def read_header(descriptor: int) -> Header:
    """Read the metadata of an entry, without reading or verifying its content.

    Raises:
        DamagedEntryError: the file isn't an entry, or is truncated.
        OSError: the file can't be read.
    """
    return _read_start(descriptor)[0]


def _read_start(descriptor: int) -> tuple[Header, bytes, int, bytes]:
    """Return the header, its bytes, the length of the content in bytes, and the digest."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise DamagedEntryError("it isn't a regular file")
    fixed = _read(descriptor, _FIXED)
    position = len(MAGIC)
    if fixed[:position] != MAGIC:
        raise DamagedEntryError("it isn't an entry of this cache")
    version = int.from_bytes(fixed[position : position + 2], "little")
    if version != FORMAT:
        raise DamagedEntryError(f"its format is {version}, and this version reads {FORMAT}")
    size = int.from_bytes(fixed[position + 2 : position + 6], "little")
    length = int.from_bytes(fixed[position + 6 : position + 14], "little")
    if size > _HEADER_LIMIT or status.st_size != _FIXED + size + length:
        raise DamagedEntryError(f"it has {status.st_size} bytes, but should have {_FIXED + size + length}")
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
            raise DamagedEntryError("it is truncated")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
