"""Check a GGUF file by its header: magic, version, metadata, and every tensor's end against the size of the file."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

from onnxport.checkpoint.file_types import refuse_stand_in
from onnxport.errors import CorruptCheckpointError, MissingDependencyError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_STRING_BYTES = 1 << 28
_VERSIONS = (2, 3)


@dataclass(frozen=True)
class GgufHeader:
    """Say what a GGUF file holds.

    Attributes:
        metadata: keys with scalar or text values; arrays (vocabularies) are left out.
        tensors: names of the tensors, in the file's order.
    """

    metadata: dict[str, Any]
    tensors: tuple[str, ...]

    @property
    def architecture(self) -> str | None:
        """The architecture that the file declares, such as `llama`."""
        value = self.metadata.get("general.architecture")
        return value if isinstance(value, str) else None


def read_gguf_header(path: Path) -> GgufHeader:
    """Read and check the header of a GGUF file; no tensor is read.

    Raises:
        CorruptCheckpointError: the file isn't GGUF, is of an unknown version, or is cut off.
        MissingDependencyError: the `gguf` package, which knows the block sizes, isn't installed.
    """
    refuse_stand_in(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        magic = file.read(4)
        if magic != b"GGUF":
            raise _corrupt(path, f"it begins with {magic!r}, not b'GGUF'")
        try:
            version, tensor_count, key_count = _unpack(file, "IQQ")
            if version not in _VERSIONS:
                raise _corrupt(path, f"it is of version {version}, and versions {_VERSIONS} can be read")
            metadata = dict(_read_pair(file) for _ in range(key_count))
            tensors = [_read_tensor(file) for _ in range(tensor_count)]
        except (ValueError, OverflowError, MemoryError) as error:
            raise _corrupt(path, f"its header is truncated or damaged ({error})") from error
        header_end = file.tell()
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1:
        raise _corrupt(path, f"general.alignment is {alignment!r}, not a positive number")
    start = -(-header_end // alignment) * alignment
    _check_ends(path, tensors, size - start)
    return GgufHeader(
        {key: value for key, value in metadata.items() if value is not None}, tuple(t[0] for t in tensors)
    )


def _check_ends(path: Path, tensors: list[tuple[str, tuple[int, ...], int, int]], available: int) -> None:
    blocks = _block_sizes()
    for name, shape, kind, offset in tensors:
        if kind not in blocks:
            raise _corrupt(path, f"tensor {name!r} has the unknown type {kind}")
        elements, block_bytes = blocks[kind]
        end = offset + prod(shape) // elements * block_bytes
        if end > available:
            raise _corrupt(
                path,
                f"tensor {name!r} ends at byte {end} of the data, but only {max(available, 0)} are in the file: "
                f"it is truncated",
            )


def _block_sizes() -> dict[int, tuple[int, int]]:
    try:
        from gguf.constants import GGML_QUANT_SIZES
    except ImportError as error:
        raise MissingDependencyError(
            'reading GGUF files needs the gguf package: pip install "onnxport[gguf]"'
        ) from error
    return {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items()}


def _read_tensor(file: IO[bytes]) -> tuple[str, tuple[int, ...], int, int]:
    name = _read_string(file)
    (rank,) = _unpack(file, "I")
    if rank > 8:
        raise ValueError(f"tensor {name!r} has {rank} dimensions")
    shape = _unpack(file, f"{rank}Q")
    kind, offset = _unpack(file, "IQ")
    return name, shape, kind, offset


def _read_pair(file: IO[bytes]) -> tuple[str, Any]:
    key = _read_string(file)
    (kind,) = _unpack(file, "I")
    return key, _read_value(file, kind)


def _read_value(file: IO[bytes], kind: int) -> Any:
    if kind in _SCALARS:
        return _unpack(file, _SCALARS[kind])[0]
    if kind == _STRING:
        return _read_string(file)
    if kind == _ARRAY:
        _skip_array(file)
        return None
    raise ValueError(f"a metadata value has the unknown type {kind}")


def _skip_array(file: IO[bytes]) -> None:
    kind, count = _unpack(file, "IQ")
    if kind in _SCALARS:
        file.seek(count * struct.calcsize("<" + _SCALARS[kind]), 1)
        return
    step: Callable[[IO[bytes]], object]
    if kind == _STRING:
        step = _read_string
    elif kind == _ARRAY:
        step = _skip_array
    else:
        raise ValueError(f"a metadata array has the unknown type {kind}")
    for _ in range(count):
        step(file)


def _read_string(file: IO[bytes]) -> str:
    (length,) = _unpack(file, "Q")
    if length > _MAX_STRING_BYTES:
        raise ValueError(f"a text claims {length} bytes")
    raw = file.read(length)
    if len(raw) < length:
        raise ValueError(f"a text claims {length} bytes, {len(raw)} are left")
    return raw.decode("utf-8", "replace")


def _unpack(file: IO[bytes], layout: str) -> tuple[Any, ...]:
    size = struct.calcsize("<" + layout)
    raw = file.read(size)
    if len(raw) < size:
        raise ValueError("the file ends inside the header")
    return struct.unpack("<" + layout, raw)


def _corrupt(path: Path, what: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(f"{path} isn't a valid GGUF file: {what}. Download or save the file again")
