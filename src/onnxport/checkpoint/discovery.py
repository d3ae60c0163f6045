"""Find the weight files of a checkpoint directory in any format, and check their headers."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from onnxport.checkpoint.file_types import check_file_type
from onnxport.checkpoint.gguf import read_gguf_header
from onnxport.checkpoint.index import check_tensors, read_index
from onnxport.checkpoint.pickled import check_pickled
from onnxport.checkpoint.safetensors import read_header
from onnxport.containment import files_inside, inside
from onnxport.errors import CheckpointNotFoundError, CorruptCheckpointError
from onnxport.options import Framework

WeightFormat = Literal["safetensors", "pytorch", "tensorflow", "gguf"]

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_INDEX_SUFFIX = ".index.json"
_CANDIDATES: tuple[tuple[str, WeightFormat], ...] = (
    ("model.safetensors", "safetensors"),
    ("model.safetensors" + _INDEX_SUFFIX, "safetensors"),
    ("pytorch_model.bin", "pytorch"),
    ("pytorch_model.bin" + _INDEX_SUFFIX, "pytorch"),
    ("tf_model.h5", "tensorflow"),
)
_UNREADABLE = ("flax_model.msgpack", "tf_model.h5.index.json", "rust_model.ot", "model.ckpt.index", "model.onnx")


@dataclass(frozen=True)
class FoundWeights:
    """The weight files of a checkpoint.

    Attributes:
        format: storage format.
        files: the files, sorted by name.
        index: the index file of a sharded checkpoint.
        tensors: number of tensors, or an upper bound.
    """

    format: WeightFormat
    files: tuple[Path, ...]
    index: Path | None = None
    tensors: int = 4096


def find_weights(directory: Path, framework: Framework | None, config: dict[str, Any]) -> FoundWeights:
    """Find and check the weights to export, reading only their headers.

    Args:
        directory: the checkpoint's directory.
        framework: `tf` for `tf_model.h5`, `pt` for all other formats, None for the first format that exists.
        config: the checkpoint's configuration; `transformers_weights`, if set, is the name of the weight file.

    Raises:
        CheckpointNotFoundError: there are no weights, or a shard is missing.
        CorruptCheckpointError: the weights are truncated, malformed, or contradict each other.
        UntrustedCodeError: a pickled file has more than tensors.
    """
    candidates = [
        (name, format)
        for name, format in _candidates(directory, config)
        if framework is None or (framework == "tf") == _is_tf(format)
    ]
    for name, format in candidates:
        path = directory / name
        if path.is_file():
            return _check(directory, inside(directory, path), format)
    if framework != "tf":
        gguf = files_inside(directory, "*.gguf")
        if len(gguf) == 1:
            return check_gguf(gguf[0])
        if gguf:
            raise CheckpointNotFoundError(
                f"{directory} has {len(gguf)} GGUF files and no other weights: pass the path of one, such as {gguf[0]}"
            )
    raise _nothing_found(directory, [name for name, _ in candidates], framework)


def has_weights(directory: Path) -> bool:
    """Return whether a directory has model weights in any supported format."""
    return any((directory / name).is_file() for name, _ in _CANDIDATES) or any(directory.glob("*.gguf"))


def check_gguf(path: Path) -> FoundWeights:
    """Check the header of a GGUF file.

    Raises:
        CorruptCheckpointError: the file isn't GGUF, or is truncated.
        MissingDependencyError: the `gguf` package isn't installed.
    """
    return FoundWeights("gguf", (path,), tensors=len(read_gguf_header(path).tensors))


def _is_tf(format: WeightFormat) -> bool:
    return format == "tensorflow"


def _candidates(directory: Path, config: dict[str, Any]) -> tuple[tuple[str, WeightFormat], ...]:
    named = config.get("transformers_weights")
    if named is None:
        return _CANDIDATES
    source = directory / "config.json"
    if not isinstance(named, str) or not named.removesuffix(_INDEX_SUFFIX).endswith(".safetensors"):
        raise CorruptCheckpointError(
            f"{source}: transformers_weights is {named!r}, not the name of a .safetensors file or of its index; "
            f"correct or remove it"
        )
    if Path(named).name != named:
        raise CorruptCheckpointError(
            f"{source}: transformers_weights is {named!r}, which isn't a file directly in {directory}; correct it"
        )
    inside(directory, named, source)
    return ((named, "safetensors"),)


def _check(directory: Path, path: Path, format: WeightFormat) -> FoundWeights:
    """Check a weight file, or the shards listed in an index."""
    indexed = path.name.endswith(_INDEX_SUFFIX)
    if format == "tensorflow":
        _check_hdf5(path)
        return FoundWeights(format, (path,))
    reader: Callable[[Path], Collection[str] | None] = read_header if format == "safetensors" else check_pickled
    if not indexed:
        tensors = reader(path)
        if format == "safetensors" and not tensors:
            raise CorruptCheckpointError(f"{path} has no tensors; save the checkpoint again")
        return FoundWeights(format, (path,)) if tensors is None else FoundWeights(format, (path,), None, len(tensors))
    index = read_index(path)
    names = {shard: frozenset(keys) for shard in index.shards if (keys := reader(shard)) is not None}
    check_tensors(index, names, exact=format == "safetensors")
    return FoundWeights(format, index.shards, path, max(sum(map(len, names.values())), len(index.tensors)))


def _check_hdf5(path: Path) -> None:
    """Check the signature and the end-of-file address of an HDF5 superblock (versions 0, 1, 2 and 3)."""
    check_file_type(path)
    with path.open("rb") as file:
        block = file.read(64)
    if not block.startswith(_HDF5_MAGIC):
        raise CorruptCheckpointError(
            f"{path} isn't an HDF5 file: it begins with {block[:8]!r}; download or save the file again"
        )
    position = {0: 40, 1: 44, 2: 28, 3: 28}.get(block[8] if len(block) > 8 else -1)
    size_of_offsets = {0: 13, 1: 13, 2: 9, 3: 9}.get(block[8] if len(block) > 8 else -1)
    if position is None or size_of_offsets is None or len(block) < 48 or block[size_of_offsets] != 8:
        return  # An unusual layout; h5py checks it when it reads the tensors.
    end, size = int.from_bytes(block[position : position + 8], "little"), path.stat().st_size
    if end > size:
        raise CorruptCheckpointError(
            f"{path} isn't a complete HDF5 file: it should have {end} bytes, but has {size}: it is truncated; "
            f"download or save the file again"
        )


def _nothing_found(directory: Path, names: list[str], framework: Framework | None) -> Exception:
    candidates = ", ".join([*names, *(("one *.gguf file",) if framework != "tf" else ())])
    others = [name for name in _UNREADABLE if (directory / name).exists()]
    others += [name for name, format in _CANDIDATES if framework and (framework == "tf") != _is_tf(format)
               and (directory / name).is_file()]  # fmt: skip
    has = f" It has {', '.join(others)}, which can't be used here." if others else ""
    remedy = "leave --framework out to use whatever weights there are" if framework else "save the model there first"
    return CheckpointNotFoundError(
        f"{directory} has no weights: looked for {candidates}.{has} Pass the directory that has them, or {remedy}"
    )
