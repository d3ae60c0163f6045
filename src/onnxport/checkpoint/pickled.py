"""Check pickled checkpoints by the globals that their opcodes refer to, without unpickling them.

The check doesn't use torch. The tensors are read later, only by `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from onnxport.checkpoint.file_types import check_file_type
from onnxport.errors import CorruptCheckpointError, UntrustedCodeError

_STORAGES = (
    "Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool",
    "ComplexDouble", "ComplexFloat", "Float8_e4m3fn", "Float8_e5m2",
)  # fmt: skip
_DTYPES = (
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
    "complex64", "complex128", "float8_e4m3fn", "float8_e5m2",
)  # fmt: skip
TENSOR_GLOBALS: frozenset[str] = frozenset(
    {
        "collections.OrderedDict",
        "_codecs.encode",
        "torch.Size",
        "torch.device",
        "torch.Tensor",
        "torch.nn.parameter.Parameter",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._tensor._rebuild_from_type_v2",
        "torch.serialization._get_layout",
        "torch.storage.UntypedStorage",
        "torch.storage.TypedStorage",
        *(f"torch.{name}Storage" for name in _STORAGES),
        *(f"torch.{name}" for name in _DTYPES),
    }
)
"""Globals that a state dict of tensors may refer to; `torch.load(weights_only=True)` allows all of them."""

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_STRING_OPCODES = frozenset(
    {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING"}
)
_MAX_PICKLE_BYTES = 64 << 20
_MAX_OPERATIONS = 5_000_000
"""Limits of a pickle without the tensors' data. A tensor takes about 200 bytes and 40 operations."""
_MAX_RATIO = 2
"""Largest size of a zip file's contents, in sizes of the file: `torch.save` doesn't compress."""


@dataclass(frozen=True)
class PickleFacts:
    """The globals and strings of a pickle.

    Attributes:
        globals: dotted names of the functions and classes that unpickling would look up.
        strings: all strings, including the tensor names.
    """

    globals: frozenset[str]
    strings: frozenset[str]


def check_pickled(path: Path) -> frozenset[str] | None:
    """Check a `.bin` file, and return its strings, which include the tensor names.

    Returns:
        The strings; None for the oldest format (a tar file), whose contents only `torch.load` checks.

    Raises:
        CorruptCheckpointError: the file is truncated or isn't a PyTorch checkpoint.
        UntrustedCodeError: unpickling it would call anything other than tensor constructors.
    """
    check_file_type(path)
    with path.open("rb") as file:
        start = file.read(512)
        file.seek(0)
        if start.startswith(b"PK\x03\x04"):
            facts = _scan_zip(path, file)
        elif start.startswith(b"\x80"):
            facts = _scan_legacy(path, io.BytesIO(file.read(_MAX_PICKLE_BYTES)))
        elif start[257:262] == b"ustar":
            return None
        else:
            raise _corrupt(path, f"it begins with {start[:8]!r}, which is neither a zip file nor a pickle")
    rejected = sorted(facts.globals - TENSOR_GLOBALS)
    if rejected:
        raise UntrustedCodeError(
            f"{path} has more than tensors: unpickling it would call {', '.join(rejected[:5])}"
            f"{f' and {len(rejected) - 5} more' if len(rejected) > 5 else ''}, so it wasn't opened. If you trust where "
            f"it comes from, load it yourself and save its state dict as safetensors; otherwise don't use the file"
        )
    return facts.strings


def scan_pickle(stream: IO[bytes]) -> PickleFacts:
    """Collect the globals and strings of a pickle from its opcodes, without executing it.

    Afterwards, the stream is positioned after the pickle's STOP opcode.

    Raises:
        ValueError: the opcodes are malformed or the pickle is truncated.
    """
    globals_: set[str] = set()
    strings: set[str] = set()
    memo: dict[int, str | None] = {}
    recent: deque[str | None] = deque(maxlen=2)
    for opcode, operand in _operations(stream):
        name, argument = opcode.name, cast("Any", operand)
        if name in ("GLOBAL", "INST"):
            globals_.add(str(argument).replace(" ", ".", 1))
        elif name == "STACK_GLOBAL":
            globals_.add(_stacked_name(recent))
        elif name in ("EXT1", "EXT2", "EXT4"):
            globals_.add(f"copyreg extension {argument}")
        elif name == "MEMOIZE":
            memo[len(memo)] = recent[-1] if recent else None
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[int(argument)] = recent[-1] if recent else None
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            recent.append(memo.get(int(argument)))
        elif name in _STRING_OPCODES:
            strings.add(argument)
            recent.append(argument)
        elif opcode.stack_after:
            recent.append(None)
    return PickleFacts(frozenset(globals_), frozenset(strings))


def _operations(stream: IO[bytes]) -> Iterator[tuple[pickletools.OpcodeInfo, object]]:
    """Yield the opcodes of a pickle and their arguments.

    Raises:
        ValueError: the opcodes are malformed or the pickle is truncated, or there are too many.
    """
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if count >= _MAX_OPERATIONS:
            raise ValueError(f"it has more than {_MAX_OPERATIONS:,} operations")
        yield opcode, argument


def _stacked_name(recent: deque[str | None]) -> str:
    # Only executing the pickle would reveal a name that isn't a plain string on the stack, so it is rejected.
    module, attribute = recent if len(recent) == 2 else (None, None)
    if isinstance(module, str) and isinstance(attribute, str):
        return f"{module}.{attribute}"
    return "a name computed while unpickling"


def _scan_zip(path: Path, file: IO[bytes]) -> PickleFacts:
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            names = [info for info in members if info.filename.rsplit("/", 1)[-1] == "data.pkl"]
            if len(names) != 1:
                raise _corrupt(path, f"the zip file has {len(names)} members named data.pkl, not 1")
            if names[0].file_size > _MAX_PICKLE_BYTES:
                raise _corrupt(path, f"its data.pkl has {names[0].file_size} bytes, more than {_MAX_PICKLE_BYTES}")
            total, size = sum(info.file_size for info in members), path.stat().st_size
            if total > _MAX_RATIO * size:
                raise _corrupt(path, f"the {size} bytes of the zip file would become {total}")
            return scan_pickle(io.BytesIO(archive.read(names[0])))
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise _corrupt(path, f"the zip file is truncated or damaged ({error})") from error
    except (ValueError, OverflowError, MemoryError) as error:
        raise _corrupt(path, f"its data.pkl is damaged ({error})") from error


def _scan_legacy(path: Path, file: IO[bytes]) -> PickleFacts:
    """Scan the pickles of torch < 1.6's format: magic number, version, system info, object, storage keys."""
    try:
        if next(_integers(file), None) != _LEGACY_MAGIC:
            file.seek(0)
            return scan_pickle(file)
        parts = [scan_pickle(file) for _ in range(4)]
    except (ValueError, OverflowError, MemoryError) as error:
        raise _corrupt(path, f"its pickle is truncated or damaged ({error})") from error
    return PickleFacts(
        frozenset().union(*(part.globals for part in parts)), frozenset().union(*(part.strings for part in parts))
    )


def _integers(file: IO[bytes]) -> Iterator[int]:
    """Yield the integers of the next pickle, which is read to its end."""
    values = [argument for _, argument in _operations(file) if isinstance(argument, int)]
    yield from (value for value in values if value > 255)


def _corrupt(path: Path, reason: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(f"{path} isn't a valid PyTorch checkpoint: {reason}. Download or save the file again")
