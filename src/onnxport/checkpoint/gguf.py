"""Check the header of a GGUF file: magic number, version, metadata, and the end of each tensor within the file."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import IO, Any

from onnxport.checkpoint.file_types import check_file_type
from onnxport.errors import CorruptCheckpointError, MissingDependencyError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_STRING_BYTES = 1 << 28
_MAX_NESTED = 8
_VERSIONS = (2, 3)


@dataclass(frozen=True)
class GgufHeader:
    """The header of a GGUF file.

    Attributes:
        metadata: scalar and string values by key; arrays (vocabularies) are skipped.
        tensors: tensor names, in file order.
    """

    metadata: dict[str, object]
    tensors: tuple[str, ...]

    @property
    def architecture(self) -> str | None:
        """The value of `general.architecture`, such as `llama`; None if missing."""
        value = self.metadata.get("general.architecture")
        return value if isinstance(value, str) else None


def read_gguf_header(path: Path) -> GgufHeader:
    """Read and check the header of a GGUF file, without reading tensor data.

    Raises:
        CorruptCheckpointError: the file isn't GGUF, has an unknown version, or is truncated.
        MissingDependencyError: the `gguf` package, which defines the block sizes, isn't installed.
    """
    check_file_type(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        magic = file.read(4)
        if magic != b"GGUF":
            raise _corrupt(path, f"it begins with {magic!r}, not b'GGUF'")
        try:
            version, tensor_count, key_count = _unpack(file, "IQQ")
            if version not in _VERSIONS:
                raise _corrupt(path, f"it has version {version}, and versions {_VERSIONS} can be read")
            metadata = dict(_read_pair(file) for _ in range(key_count))
            tensors = [_read_tensor(file) for _ in range(tensor_count)]
        except (ValueError, OSError, OverflowError, MemoryError) as error:
            raise _corrupt(path, f"its header is truncated or damaged ({error})") from error
        header_end = file.tell()
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1:
        raise _corrupt(path, f"general.alignment is {alignment!r}, not a positive integer")
    start = -(-header_end // alignment) * alignment
    _check_ends(path, tensors, size - start)
    return GgufHeader(
        {key: value for key, value in metadata.items() if value is not None}, tuple(tensor.name for tensor in tensors)
    )


@dataclass(frozen=True)
class _TensorInfo:
    """A tensor in the header.

    Attributes:
        name: tensor name.
        shape: sizes, innermost axis first.
        type: GGML type, a key of `_block_sizes`.
        offset: offset of its data in the data section, in bytes.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int


def _check_ends(path: Path, tensors: list[_TensorInfo], available: int) -> None:
    blocks = _block_sizes()
    for tensor in tensors:
        if tensor.type not in blocks:
            raise _corrupt(path, f"tensor {tensor.name!r} has the unknown type {tensor.type}")
        elements, block_bytes = blocks[tensor.type]
        end = tensor.offset + prod(tensor.shape) // elements * block_bytes
        if end > available:
            raise _corrupt(
                path,
                f"tensor {tensor.name!r} ends at byte {end} of the data, but only {max(available, 0)} are in the file: "
                f"it is truncated",
            )


def _block_sizes() -> dict[int, tuple[int, int]]:
    """Return the number of elements and bytes in a block, by GGML type."""
    try:
        from gguf.constants import GGML_QUANT_SIZES
    except ImportError as error:
        raise MissingDependencyError(
            'reading GGUF files needs the gguf package: pip install "onnxport[gguf]"'
        ) from error
    return {int(ggml_type): sizes for ggml_type, sizes in GGML_QUANT_SIZES.items()}


def _read_tensor(file: IO[bytes]) -> _TensorInfo:
    name = _read_string(file)
    (rank,) = _unpack(file, "I")
    if rank > 8:
        raise ValueError(f"tensor {name!r} has {rank} dimensions")
    shape = _unpack(file, f"{rank}Q")
    ggml_type, offset = _unpack(file, "IQ")
    return _TensorInfo(name, shape, ggml_type, offset)


def _read_pair(file: IO[bytes]) -> tuple[str, object]:
    key = _read_string(file)
    (value_type,) = _unpack(file, "I")
    return key, _read_value(file, value_type)


def _read_value(file: IO[bytes], value_type: int) -> object:
    if value_type in _SCALARS:
        return _unpack(file, _SCALARS[value_type])[0]
    if value_type == _STRING:
        return _read_string(file)
    if value_type == _ARRAY:
        _skip_array(file, 0)
        return None
    raise ValueError(f"a metadata value has the unknown type {value_type}")


def _skip_array(file: IO[bytes], depth: int) -> None:
    if depth > _MAX_NESTED:
        raise ValueError(f"arrays are nested more than {_MAX_NESTED} deep")
    value_type, count = _unpack(file, "IQ")
    if value_type in _SCALARS:
        file.seek(count * struct.calcsize("<" + _SCALARS[value_type]), 1)
        return
    step: Callable[[IO[bytes]], object]
    if value_type == _STRING:
        step = _read_string
    elif value_type == _ARRAY:
        step = partial(_skip_array, depth=depth + 1)
    else:
        raise ValueError(f"a metadata array has the unknown type {value_type}")
    for _ in range(count):
        step(file)


def _read_string(file: IO[bytes]) -> str:
    (length,) = _unpack(file, "Q")
    if length > _MAX_STRING_BYTES:
        raise ValueError(f"a string has {length} bytes, more than {_MAX_STRING_BYTES}")
    raw = file.read(length)
    if len(raw) < length:
        raise ValueError(f"a string of {length} bytes has {len(raw)} left in the file")
    return raw.decode("utf-8", "replace")


def _unpack(file: IO[bytes], layout: str) -> tuple[Any, ...]:
    size = struct.calcsize("<" + layout)
    raw = file.read(size)
    if len(raw) < size:
        raise ValueError("the file ends inside the header")
    return struct.unpack("<" + layout, raw)


def _corrupt(path: Path, reason: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(f"{path} isn't a valid GGUF file: {reason}. Download or save the file again")
