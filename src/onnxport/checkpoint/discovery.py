"""Find the weights of a checkpoint's directory and check them by their headers, whatever their format."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from onnxport.checkpoint.file_types import refuse_stand_in
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
    """Name the weights of a checkpoint.

    Attributes:
        format: how they are stored.
        files: the files, in the order of their names.
        index: the index that names them, when they are sharded.
    """

    format: WeightFormat
    files: tuple[Path, ...]
    index: Path | None = None


def find_weights(directory: Path, framework: Framework | None, config: dict[str, Any]) -> FoundWeights:
    """Find the weights to export and check them; only headers are read.

    Args:
        directory: the checkpoint.
        framework: `tf` for `tf_model.h5`, `pt` for everything else, `None` for the first that is there.
        config: the checkpoint's configuration; its `transformers_weights`, when set, names the weights.

    Raises:
        CheckpointNotFoundError: there are no weights, or a shard is missing.
        CorruptCheckpointError: the weights are truncated, malformed, or contradict each other.
        UntrustedCodeError: a pickled file holds more than tensors.
    """
    candidates = _candidates(directory, config)
    wanted = [(name, kind) for name, kind in candidates if framework is None or (framework == "tf") == _is_tf(kind)]
    for name, kind in wanted:
        path = directory / name
        if path.is_file():
            return _check(directory, inside(directory, path), kind)
    if framework != "tf":
        gguf = files_inside(directory, "*.gguf")
        if len(gguf) == 1:
            return check_gguf(gguf[0])
        if gguf:
            raise CheckpointNotFoundError(
                f"{directory} has {len(gguf)} GGUF files and no other weights: give the path of one, such as {gguf[0]}"
            )
    raise _nothing_found(directory, [name for name, _ in wanted], framework)


def has_weights(directory: Path) -> bool:
    """Tell whether a directory has weights of a model, of any format."""
    return any((directory / name).is_file() for name, _ in _CANDIDATES) or any(directory.glob("*.gguf"))


def check_gguf(path: Path) -> FoundWeights:
    """Check a GGUF file by its header.

    Raises:
        CorruptCheckpointError: it isn't GGUF or is truncated.
        MissingDependencyError: the `gguf` package isn't installed.
    """
    read_gguf_header(path)
    return FoundWeights("gguf", (path,))


def _is_tf(kind: WeightFormat) -> bool:
    return kind == "tensorflow"


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
            f"{source}: transformers_weights is {named!r}, which isn't a file of {directory} itself; correct it"
        )
    inside(directory, named, source)
    return ((named, "safetensors"),)


def _check(directory: Path, path: Path, kind: WeightFormat) -> FoundWeights:
    """Check the weights that a file is, or that an index names."""
    indexed = path.name.endswith(_INDEX_SUFFIX)
    if kind == "tensorflow":
        _check_hdf5(path)
        return FoundWeights(kind, (path,))
    reader: Callable[[Path], Iterable[str] | None] = read_header if kind == "safetensors" else check_pickled
    if not indexed:
        if kind == "safetensors" and not read_header(path):
            raise CorruptCheckpointError(f"{path} holds no tensors; save the checkpoint again")
        reader(path)
        return FoundWeights(kind, (path,))
    index = read_index(path)
    held = {shard: names for shard in index.shards if (names := reader(shard)) is not None}
    check_tensors(index, {shard: frozenset(names) for shard, names in held.items()}, exact=kind == "safetensors")
    return FoundWeights(kind, index.shards, path)


def _check_hdf5(path: Path) -> None:
    """Check the signature and the end that the superblock of an HDF5 file states (versions 0, 2 and 3)."""
    refuse_stand_in(path)
    with path.open("rb") as file:
        block = file.read(64)
    if not block.startswith(_HDF5_MAGIC):
        raise CorruptCheckpointError(
            f"{path} isn't an HDF5 file: it begins with {block[:8]!r}; download or save the file again"
        )
    position = {0: 40, 1: 44, 2: 28, 3: 28}.get(block[8] if len(block) > 8 else -1)
    size_of_offsets = {0: 13, 1: 13, 2: 9, 3: 9}.get(block[8] if len(block) > 8 else -1)
    if position is None or size_of_offsets is None or len(block) < 48 or block[size_of_offsets] != 8:
        return  # An unusual layout: h5py judges it when the tensors are read.
    end, size = int.from_bytes(block[position : position + 8], "little"), path.stat().st_size
    if end > size:
        raise CorruptCheckpointError(
            f"{path} isn't a whole HDF5 file: it states an end at byte {end}, but has only {size}: it is truncated; "
            f"download or save the file again"
        )


def _nothing_found(directory: Path, names: list[str], framework: Framework | None) -> Exception:
    looked = ", ".join([*names, *(("one *.gguf file",) if framework != "tf" else ())])
    others = [name for name in _UNREADABLE if (directory / name).exists()]
    others += [name for name, kind in _CANDIDATES if framework and (framework == "tf") != _is_tf(kind)
               and (directory / name).is_file()]  # fmt: skip
    has = f" It has {', '.join(others)}, which can't be used here." if others else ""
    remedy = "leave --framework out to use whatever weights there are" if framework else "save the model there first"
    return CheckpointNotFoundError(
        f"{directory} has no weights: looked for {looked}.{has} Give the directory that holds them, or {remedy}"
    )
