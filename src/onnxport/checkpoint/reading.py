"""Read a checkpoint's bytes where expressions say they are, and notice a file that changes meanwhile.

A file is what it was when its header was read: same inode, size and time of change. That is checked when it is
opened and again after the last read; between the two, a read that comes back short says so at once.
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
"""Types of safetensors files that ONNX has too, whole bytes each."""


@dataclass(frozen=True)
class FileState:
    """Identify the content of a file without reading it.

    Attributes:
        size: its bytes.
        mtime_ns: when it was last written, in nanoseconds.
        inode: its number on its file system.
    """

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        """Take over what the system says of a file."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


@dataclass(frozen=True)
class Inventory:
    """List what is in the safetensors files of a checkpoint.

    Attributes:
        tensors: key → where it is.
        files: path inside the checkpoint's directory → state of the file when its header was read.
    """

    tensors: Mapping[str, Stored]
    files: Mapping[str, FileState]


def take_inventory(directory: Path, paths: Iterable[Path], more: Mapping[str, Path] | None = None) -> Inventory:
    """Read the headers of safetensors files; no tensor is read.

    Args:
        directory: the checkpoint's directory.
        paths: the files, all of them inside it.
        more: further files, anywhere, by what is put before the names of their tensors.

    Raises:
        CorruptCheckpointError: a file is damaged, or a tensor is in two of them.
        KeyError: a tensor has a type that ONNX doesn't have, which is the key.
    """
    tensors: dict[str, Stored] = {}
    files: dict[str, FileState] = {}
    for path, prefix in [*((path, "") for path in paths), *((path, prefix) for prefix, path in (more or {}).items())]:
        name = Path(os.path.relpath(path, directory)).as_posix() if prefix else path.relative_to(directory).as_posix()
        files[name] = state_of(path)
        start = data_start(path)
        for own, entry in read_header(path).items():
            key = prefix + own
            if key in tensors:
                raise CorruptCheckpointError(
                    f"{directory}: tensor {key!r} is in {tensors[key].file} and in {name}; "
                    "save the checkpoint again, each tensor once"
                )
            dtype = ONNX_DTYPES[entry.dtype]
            tensors[key] = Stored(name, key, dtype, entry.shape, start + entry.begin, start + entry.end)
    return Inventory(tensors, files)


def state_of(path: Path) -> FileState:
    """Return the state of a file.

    Raises:
        CheckpointNotFoundError: it isn't there.
    """
    try:
        return FileState.of(path.stat())
    except OSError as error:
        raise _unreadable(path, error) from error


def data_start(path: Path) -> int:
    """Return the offset of the first byte after a safetensors header."""
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


class Reader:
    """Read byte ranges of a checkpoint's files, from several threads at once; each is opened once.

    Args:
        directory: the checkpoint's directory.
        files: states that the files must have, from the inventory; others aren't read.

    Raises:
        CorruptCheckpointError: while reading, where a file has changed since its header was read, or is cut short.
        CheckpointNotFoundError: while reading, where a file is gone.
    """

    def __init__(self, directory: Path, files: Mapping[str, FileState]) -> None:
        self.directory = directory
        self.files = files
        self._open: dict[str, int] = {}
        self._opening = threading.Lock()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, where: ByteRange, /) -> Array:
        """Return bytes as an array of `uint8` that may be written to."""
        out = np.empty(where.nbytes, np.uint8)
        self.read_into(where, out)
        return out

    def read_into(self, where: ByteRange, out: Array) -> None:
        """Read bytes into a contiguous array of as many."""
        descriptor = self.descriptor(where.file)
        view, position = out.data.cast("B"), where.offset
        while len(view):
            try:
                count = os.preadv(descriptor, [view], position)
            except OSError as error:
                raise _unreadable(self.directory / where.file, error) from error
            if not count:
                raise self.cut_short(where)
            view, position = view[count:], position + count

    def descriptor(self, file: str) -> int:
        """Return an open descriptor of a file, which stays this reader's."""
        with self._opening:
            if file not in self._open:
                path = self.directory / file
                try:
                    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
                except OSError as error:
                    raise _unreadable(path, error) from error
                self._open[file] = descriptor
                if hasattr(os, "posix_fadvise"):  # it is read from the beginning to the end: more is read ahead
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
                self._check(file, FileState.of(os.fstat(descriptor)))
            return self._open[file]

    def verify(self) -> None:
        """Check, after the last read, that every file that was read is still what it was.

        The open file is looked at, and what has its name now: one that was replaced is a change too.
        """
        for file, descriptor in self._open.items():
            self._check(file, FileState.of(os.fstat(descriptor)))
            self._check(file, state_of(self.directory / file))

    def cut_short(self, where: ByteRange) -> CorruptCheckpointError:
        """Return the error for a file that ended before a range did."""
        return CorruptCheckpointError(
            f"{self.directory / where.file} ended before byte {where.offset + where.nbytes}, where a tensor ends: it "
            "was cut short while it was read; nothing was written. Download or save the file again"
        )

    def close(self) -> None:
        """Close the files."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _check(self, file: str, found: FileState) -> None:
        wanted = self.files.get(file)
        if wanted is not None and found != wanted:
            raise CorruptCheckpointError(
                f"{self.directory / file} changed while it was read ({_difference(wanted, found)}); nothing was "
                "written. Export again when nothing writes to the checkpoint"
            )


def _difference(wanted: FileState, found: FileState) -> str:
    if found.inode != wanted.inode:
        return "another file has its name now"
    if found.size != wanted.size:
        return f"it had {wanted.size} bytes, now it has {found.size}"
    return "it was written to"


def _unreadable(path: Path, error: OSError) -> CheckpointNotFoundError:
    return CheckpointNotFoundError(
        f"{path}: the weights can't be read ({error.strerror or error}); check the path and its permissions"
    )


def json_of(state: FileState) -> list[int]:
    """Return a state as JSON; `FileState(*list)` undoes it."""
    return [state.size, state.mtime_ns, state.inode]
