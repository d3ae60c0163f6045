"""Read byte ranges of a checkpoint's files, and detect files that change during an export.

Size, modification time and inode must be the same as when the header was read. They are compared when a file is opened
and after the last read; a short read in between raises immediately.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import onnx_ir as ir

from onnxport.checkpoint.safetensors import read_header
from onnxport.errors import CheckpointNotFoundError, CorruptCheckpointError
from onnxport.weights.expressions import Array, ByteRange, Stored

ONNX_DTYPES: dict[str, ir.DataType] = {
    "BOOL": ir.DataType.BOOL,
    "U8": ir.DataType.UINT8, "U16": ir.DataType.UINT16, "U32": ir.DataType.UINT32, "U64": ir.DataType.UINT64,
    "I8": ir.DataType.INT8, "I16": ir.DataType.INT16, "I32": ir.DataType.INT32, "I64": ir.DataType.INT64,
    "F16": ir.DataType.FLOAT16, "BF16": ir.DataType.BFLOAT16, "F32": ir.DataType.FLOAT, "F64": ir.DataType.DOUBLE,
    "F8_E4M3": ir.DataType.FLOAT8E4M3FN, "F8_E5M2": ir.DataType.FLOAT8E5M2,
    "F8_E4M3FNUZ": ir.DataType.FLOAT8E4M3FNUZ, "F8_E5M2FNUZ": ir.DataType.FLOAT8E5M2FNUZ,
    "F8_E8M0": ir.DataType.FLOAT8E8M0,
}  # fmt: skip
"""Safetensors dtype to ONNX data type, for the dtypes of at least one byte that ONNX defines."""


@dataclass(frozen=True)
class FileState:
    """Metadata that identifies the contents of a file without reading it.

    Attributes:
        size: size in bytes.
        mtime_ns: modification time, in nanoseconds.
        inode: inode number.
    """

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        """Create a state from the result of `os.stat`."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


@dataclass(frozen=True)
class Inventory:
    """The tensors of a checkpoint's safetensors files.

    Attributes:
        tensors: file, dtype, shape and byte range of each tensor, by key.
        files: state of each file when its header was read, by path relative to the checkpoint's directory.
    """

    tensors: Mapping[str, Stored]
    files: Mapping[str, FileState]


def list_tensors(directory: Path, paths: Iterable[Path], more: Mapping[str, Path] | None = None) -> Inventory:
    """Read the headers of safetensors files, without reading tensor data.

    Args:
        directory: the checkpoint's directory.
        paths: files in that directory.
        more: additional files in any directory, by the prefix to add to their tensor names.

    Raises:
        CorruptCheckpointError: a file is damaged, or a tensor is in two files.
        KeyError: a tensor has a dtype that ONNX doesn't define; the key is that dtype.
    """
    tensors: dict[str, Stored] = {}
    files: dict[str, FileState] = {}
    for path, prefix in [*((path, "") for path in paths), *((path, prefix) for prefix, path in (more or {}).items())]:
        name = Path(os.path.relpath(path, directory)).as_posix() if prefix else path.relative_to(directory).as_posix()
        files[name] = file_state(path)
        start = data_start(path)
        for tensor_name, entry in read_header(path).items():
            key = prefix + tensor_name
            if key in tensors:
                raise CorruptCheckpointError(
                    f"{directory}: tensor {key!r} is in {tensors[key].file} and in {name}; "
                    "save the checkpoint again, each tensor once"
                )
            dtype = ONNX_DTYPES[entry.dtype]
            tensors[key] = Stored(name, key, dtype, entry.shape, start + entry.begin, start + entry.end)
    return Inventory(tensors, files)


def file_state(path: Path) -> FileState:
    """Return the state of a file.

    Raises:
        CheckpointNotFoundError: the file doesn't exist or can't be accessed.
    """
    try:
        return FileState.of(path.stat())
    except OSError as error:
        raise _unreadable(path, error) from error


def data_start(path: Path) -> int:
    """Return the offset of the data section of a safetensors file, in bytes."""
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


class Reader:
    """A thread-safe reader of byte ranges of a checkpoint's files; each file is opened once.

    Args:
        directory: the checkpoint's directory.
        files: expected state of each file, from the inventory; files without an expected state aren't checked.

    Raises:
        CorruptCheckpointError: while reading, if a file changed since its header was read, or was truncated.
        CheckpointNotFoundError: while reading, if a file was removed.
    """

    def __init__(self, directory: Path, files: Mapping[str, FileState]) -> None:
        self.directory = directory
        self.files = files
        self._open: dict[str, int] = {}
        self._opening = threading.Lock()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, where: ByteRange, /) -> Array:
        """Return a byte range as a writable `uint8` array."""
        out = np.empty(where.nbytes, np.uint8)
        self.read_into(where, out)
        return out

    def read_into(self, where: ByteRange, out: Array) -> None:
        """Read a byte range into a contiguous array of the same size in bytes."""
        descriptor = self.descriptor(where.file)
        view, position = out.data.cast("B"), where.offset
        while len(view):
            try:
                count = os.preadv(descriptor, [view], position)
            except OSError as error:
                raise _unreadable(self.directory / where.file, error) from error
            if not count:
                raise self.truncation_error(where)
            view, position = view[count:], position + count

    def descriptor(self, file: str) -> int:
        """Return an open file descriptor that this reader owns and closes."""
        with self._opening:
            if file not in self._open:
                path = self.directory / file
                try:
                    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
                except OSError as error:
                    raise _unreadable(path, error) from error
                self._open[file] = descriptor
                if hasattr(os, "posix_fadvise"):  # files are read sequentially, so request a larger read-ahead
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
                self._check(file, FileState.of(os.fstat(descriptor)))
            return self._open[file]

    def verify(self) -> None:
        """Check that no open file has changed; to be called after the last read.

        Both the open file and the file that is now at its path are compared, so that a replaced file is detected.
        """
        for file, descriptor in self._open.items():
            self._check(file, FileState.of(os.fstat(descriptor)))
            self._check(file, file_state(self.directory / file))

    def truncation_error(self, where: ByteRange) -> CorruptCheckpointError:
        """Return the error for a file that ends inside a byte range."""
        return CorruptCheckpointError(
            f"{self.directory / where.file} ended before byte {where.offset + where.nbytes}, the end of a tensor: it "
            "was truncated while it was read; nothing was written. Download or save the file again"
        )

    def close(self) -> None:
        """Close the files."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _check(self, file: str, actual: FileState) -> None:
        expected = self.files.get(file)
        if expected is not None and actual != expected:
            raise CorruptCheckpointError(
                f"{self.directory / file} changed while it was read ({_difference(expected, actual)}); nothing was "
                "written. Export again when nothing writes to the checkpoint"
            )


def _difference(expected: FileState, actual: FileState) -> str:
    if actual.inode != expected.inode:
        return "it was replaced by another file"
    if actual.size != expected.size:
        return f"it had {expected.size} bytes, now it has {actual.size}"
    return "it was modified"


def _unreadable(path: Path, error: OSError) -> CheckpointNotFoundError:
    return CheckpointNotFoundError(
        f"{path}: the weights can't be read ({error.strerror or error}); check the path and its permissions"
    )


def state_to_json(state: FileState) -> list[int]:
    """Return a state as a JSON list, the inverse of `FileState(*list)`."""
    return [state.size, state.mtime_ns, state.inode]
