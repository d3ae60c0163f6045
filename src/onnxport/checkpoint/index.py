"""Read the index of a sharded checkpoint, and check that its shards are files of the checkpoint's directory."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from onnxport.checkpoint.json_files import read_json_object
from onnxport.errors import CheckpointNotFoundError, CorruptCheckpointError


@dataclass(frozen=True)
class ShardIndex:
    """Map tensors to shards.

    Attributes:
        path: the index file.
        tensors: tensor name → path of its shard, in the directory of the index.
    """

    path: Path
    tensors: dict[str, Path]

    @property
    def shards(self) -> tuple[Path, ...]:
        """The distinct shards, sorted by name."""
        return tuple(sorted(set(self.tensors.values())))


def read_index(path: Path) -> ShardIndex:
    """Read an index and check that each shard is a file of the checkpoint's directory.

    Raises:
        CheckpointNotFoundError: a shard is missing.
        CorruptCheckpointError: the index is malformed or names a file outside the directory.
    """
    content = read_json_object(path, purpose="the index of the weights")
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CorruptCheckpointError(
            f"{path}: the index of the weights must have a weight_map of tensor names to file names, found "
            f"{_brief(weight_map)}; download or save the file again"
        )
    places: dict[str, Path] = {}
    resolved: dict[str, Path] = {}
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or not shard:
            raise CorruptCheckpointError(
                f"{path}: tensor {tensor!r} is mapped to {_brief(shard)}, not to a file name; save the file again"
            )
        if shard not in resolved:
            resolved[shard] = _inside(path, shard)
        places[tensor] = resolved[shard]
    missing = [shard for shard, file in resolved.items() if not file.is_file()]
    if missing:
        raise CheckpointNotFoundError(
            f"{path} names {len(resolved)} files, and {len(missing)} of them aren't in {path.parent}: "
            f"{', '.join(sorted(missing)[:5])}{', …' if len(missing) > 5 else ''}; download them too"
        )
    return ShardIndex(path, places)


def check_tensors(index: ShardIndex, names: Mapping[Path, Collection[str]], *, exact: bool) -> None:
    """Check that each shard has the tensors that the index assigns to it.

    Args:
        index: the index.
        names: shard → names in it.
        exact: whether `names` are tensor names only; otherwise duplicates aren't detected.

    Raises:
        CorruptCheckpointError: a tensor isn't in its shard, or is in several.
    """
    owners: dict[str, Path] = {}
    for shard, found in names.items() if exact else ():
        for name in found:
            if name in owners:
                raise CorruptCheckpointError(
                    f"{index.path}: tensor {name!r} is in both {owners[name].name} and {shard.name}; "
                    f"save the checkpoint again, each tensor once"
                )
            owners[name] = shard
    absent = [name for name, shard in index.tensors.items() if shard in names and name not in names[shard]]
    if absent:
        shard = index.tensors[absent[0]]
        others = f" (and {len(absent) - 1} more like it)" if len(absent) > 1 else ""
        raise CorruptCheckpointError(
            f"{index.path} maps tensor {absent[0]!r} to {shard.name}, which doesn't have it{others}; "
            f"download the index and the shards again, from the same revision"
        )


def check_inside(directory: Path, place: Path, named_by: Path) -> None:
    """Check that a file named by another lies in the checkpoint's directory, symbolic links followed.

    The blobs of the hub's cache, which its snapshots link to, count as inside.

    Raises:
        CorruptCheckpointError: it lies elsewhere.
    """
    real = place.resolve()
    if any(real.is_relative_to(root) for root in (directory.resolve(), *_blob_folders(directory))):
        return
    raise CorruptCheckpointError(
        f"{named_by} names {place.name!r}, which is a link to {real}, outside of {directory}; "
        f"put the file itself into the directory"
    )


def _inside(index_path: Path, shard: str) -> Path:
    parts = PurePosixPath(shard)
    windows = PureWindowsPath(shard)
    if parts.is_absolute() or windows.drive or windows.root or ".." in parts.parts or ".." in windows.parts:
        raise CorruptCheckpointError(
            f"{index_path} names the file {shard!r}, outside of {index_path.parent}; "
            f"an index may only name files of its own directory: don't use this checkpoint, or correct the index"
        )
    if "\0" in shard:
        raise CorruptCheckpointError(f"{index_path} names the file {shard!r}, which no file can be called; correct it")
    place = index_path.parent / shard
    check_inside(index_path.parent, place, index_path)
    return place


def _blob_folders(directory: Path) -> tuple[Path, ...]:
    """Return where the hub's cache keeps the contents of a snapshot: the repository's blobs, and the shared ones."""
    snapshots = directory.absolute().parent
    repository = snapshots.parent
    if snapshots.name != "snapshots" or "--" not in repository.name:
        return ()
    return (repository / "blobs").resolve(), (repository.parent / "blobs").resolve()


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
