"""Read and check the headers of safetensors files: names, dtypes, shapes, and offsets within the file.

Format: the length of the header as a little-endian 64-bit integer, the header as JSON, then the tensors without gaps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import TypeGuard

from onnxport.checkpoint.file_types import check_file_type
from onnxport.checkpoint.json_files import parse_json_object
from onnxport.errors import CorruptCheckpointError, brief

DTYPE_BITS: dict[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
"""Safetensors dtype to bits per element."""

MAX_HEADER_BYTES = 100_000_000
"""Largest header that the safetensors library accepts."""
_MAX_SIZE = 2**63 - 1
_MAX_NAME = 1_000
_MAX_RANK = 64
"""Largest number of axes that NumPy supports."""


@dataclass(frozen=True)
class TensorEntry:
    """A tensor in the header of a safetensors file.

    Attributes:
        dtype: a key of `DTYPE_BITS`.
        shape: sizes, outermost axis first; empty for a scalar.
        begin: offset of the first byte in the data section.
        end: offset after the last byte in the data section.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> Mapping[str, TensorEntry]:
    """Read and check the header of a safetensors file, without reading tensor data; once, unless the file changes.

    Returns:
        Dtype, shape and byte range of each tensor, by name.

    Raises:
        CorruptCheckpointError: the header or the file is truncated or malformed, or the offsets contradict the
            shapes, each other or the file size.
    """
    check_file_type(path)
    status = path.stat()
    return _read_header(path.absolute(), status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=256)
def _read_header(path: Path, size: int, mtime_ns: int, inode: int) -> Mapping[str, TensorEntry]:
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise _corrupt(path, f"it has {size} bytes, fewer than the 8 bytes of the header's length")
        length = int.from_bytes(prefix, "little")
        if length > MAX_HEADER_BYTES:
            raise _corrupt(path, f"its header has {length} bytes, more than the maximum of {MAX_HEADER_BYTES}")
        if 8 + length > size:
            raise _corrupt(path, f"its header has {length} bytes, but the file has only {size}: it is truncated")
        raw = file.read(length)
    header = parse_json_object(raw, path, purpose="the safetensors header", position=8)
    header.pop("__metadata__", None)
    entries = {name: _entry(path, name, value) for name, value in header.items()}
    _check_layout(path, entries, size - 8 - length)
    return entries


def _entry(path: Path, name: str, value: object) -> TensorEntry:
    if len(name) > _MAX_NAME:
        raise _corrupt(path, f"tensor {brief(name)} has a name of {len(name)} characters, more than {_MAX_NAME}")
    if not isinstance(value, dict) or not {"dtype", "shape", "data_offsets"} <= value.keys():
        raise _corrupt(path, f"tensor {name!r} is described by {brief(value)}, not by dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise _corrupt(path, f"tensor {name!r} has the unknown dtype {brief(dtype)} (known: {', '.join(DTYPE_BITS)})")
    if not _is_size_list(shape):
        raise _corrupt(path, f"tensor {name!r} has the shape {brief(shape)}, not a list of sizes")
    if not _is_size_list(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _corrupt(path, f"tensor {name!r} has the data_offsets {brief(offsets)}, not a begin and an end after it")
    nbytes = (prod(shape) * DTYPE_BITS[dtype] + 7) // 8 if len(shape) <= _MAX_RANK else _MAX_SIZE + 1
    if nbytes > _MAX_SIZE:
        raise _corrupt(path, f"tensor {name!r} of {dtype} has the shape {brief(shape)}, which no tensor can have")
    if offsets[1] - offsets[0] != nbytes:
        raise _corrupt(
            path,
            f"tensor {name!r} of {dtype} {brief(shape)} needs {nbytes} bytes, but its data_offsets {offsets} "
            f"span {offsets[1] - offsets[0]}",
        )
    return TensorEntry(dtype, tuple(shape), offsets[0], offsets[1])


def _is_size_list(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and 0 <= item <= _MAX_SIZE for item in value)


def _check_layout(path: Path, entries: dict[str, TensorEntry], available: int) -> None:
    """Check that the tensors fill the data section exactly, without overlaps or gaps."""
    position, previous = 0, "the header"
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.end > available:
            raise _corrupt(
                path,
                f"tensor {name!r} ends at byte {entry.end} of the data, but only {available} are in the file: "
                f"it is truncated",
            )
        if entry.begin < position:
            raise _corrupt(path, f"tensor {name!r} begins at byte {entry.begin}, inside {previous!r} up to {position}")
        if entry.begin > position:
            raise _corrupt(
                path, f"{entry.begin - position} bytes between {previous!r} and {name!r} belong to no tensor"
            )
        position, previous = entry.end, name
    if position != available:
        raise _corrupt(path, f"{available - position} bytes after the last tensor {previous!r} belong to no tensor")


def _corrupt(path: Path, reason: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(f"{path} isn't a valid safetensors file: {reason}. Download or save the file again")
