"""Read the index of a sharded checkpoint, and check that its shards are files in the checkpoint's directory."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from onnxport.checkpoint.json_files import read_json_object
from onnxport.containment import inside
from onnxport.errors import CheckpointNotFoundError, CorruptCheckpointError


@dataclass(frozen=True)
class ShardIndex:
    """The index of a sharded checkpoint.

    Attributes:
        path: the index file.
        tensors: path of each tensor's shard, in the directory of the index.
    """

    path: Path
    tensors: dict[str, Path]

    @property
    def shards(self) -> tuple[Path, ...]:
        """The distinct shards, sorted by name."""
        return tuple(sorted(set(self.tensors.values())))


def read_index(path: Path) -> ShardIndex:
    """Read an index, and check that each shard is a file in the checkpoint's directory.

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
    tensors: dict[str, Path] = {}
    resolved: dict[str, Path] = {}
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or not shard:
            raise CorruptCheckpointError(
                f"{path}: tensor {tensor!r} is mapped to {_brief(shard)}, not to a file name; save the file again"
            )
        if shard not in resolved:
            resolved[shard] = inside(path.parent, shard, path)
        tensors[tensor] = resolved[shard]
    missing = [shard for shard, file in resolved.items() if not file.is_file()]
    if missing:
        raise CheckpointNotFoundError(
            f"{path} names {len(resolved)} files, and {len(missing)} of them aren't in {path.parent}: "
            f"{', '.join(sorted(missing)[:5])}{', …' if len(missing) > 5 else ''}; download them too"
        )
    return ShardIndex(path, tensors)


def check_tensors(index: ShardIndex, names: Mapping[Path, Collection[str]], *, exact: bool) -> None:
    """Check that each shard has the tensors that the index assigns to it.

    Args:
        index: the index.
        names: names in each shard.
        exact: whether `names` consist of tensor names only; otherwise duplicates aren't detected.

    Raises:
        CorruptCheckpointError: a tensor isn't in its shard, or is in several shards.
    """
    owners: dict[str, Path] = {}
    for shard, tensors in names.items() if exact else ():
        for name in tensors:
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


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
