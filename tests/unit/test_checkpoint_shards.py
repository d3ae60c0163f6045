"""Open sharded checkpoints: the index must match the directory and the shards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onnxport.checkpoint.checkpoint import open_checkpoint
from onnxport.errors import CheckpointNotFoundError, CorruptCheckpointError
from onnxport.options import ExportOptions
from tests.unit.test_checkpoint import write_safetensors

OPTIONS = ExportOptions()
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    root = tmp_path / "checkpoint"
    root.mkdir()
    (root / "config.json").write_text('{"model_type": "bert"}')
    write_safetensors(root / ONE, {"a": [2]})
    write_safetensors(root / TWO, {"b": [2]})
    set_index(root, {"a": ONE, "b": TWO})
    return root


def set_index(root: Path, weight_map: object) -> None:
    content = {"metadata": {"total_size": 16}, "weight_map": weight_map}
    (root / "model.safetensors.index.json").write_text(json.dumps(content))


def test_opens_shards_in_order(directory: Path) -> None:
    set_index(directory, {"b": TWO, "a": ONE})
    assert [path.name for path in open_checkpoint(directory, OPTIONS).weight_files] == [ONE, TWO]


def test_names_the_missing_shard(directory: Path) -> None:
    (directory / TWO).unlink()
    with pytest.raises(CheckpointNotFoundError, match=rf"names 2 files.*1 of them.*{TWO}"):
        open_checkpoint(directory, OPTIONS)


@pytest.mark.parametrize("shard", ["../secret.safetensors", "sub/../../secret.safetensors", "/etc/passwd",
                                   "C:\\secret", "..\\secret", "\\\\host\\share", "x\0y"])  # fmt: skip
def test_an_index_with_a_path_outside_is_an_error(directory: Path, shard: str) -> None:
    write_safetensors(directory.parent / "secret.safetensors", {"b": [2]})
    set_index(directory, {"a": ONE, "b": shard})
    with pytest.raises(CorruptCheckpointError, match=r"index\.json names"):
        open_checkpoint(directory, OPTIONS)


def test_a_link_to_a_file_outside_is_an_error(directory: Path) -> None:
    write_safetensors(directory.parent / "secret.safetensors", {"b": [2]})
    (directory / TWO).unlink()
    (directory / TWO).symlink_to(directory.parent / "secret.safetensors")
    with pytest.raises(CorruptCheckpointError, match=r"link to .*secret\.safetensors, outside"):
        open_checkpoint(directory, OPTIONS)


@pytest.mark.parametrize("blobs", ["hub/models--o--n/blobs", "hub/blobs/ab"])
def test_accepts_the_blobs_of_the_hub_cache(directory: Path, tmp_path: Path, blobs: str) -> None:
    snapshot = tmp_path / "hub" / "models--o--n" / "snapshots" / ("0" * 40)
    store = tmp_path / blobs
    snapshot.mkdir(parents=True)
    store.mkdir(parents=True)
    for number, path in enumerate(sorted(directory.iterdir())):
        path.rename(store / str(number))
        (snapshot / path.name).symlink_to(store / str(number))
    assert [path.name for path in open_checkpoint(snapshot, OPTIONS).weight_files] == [ONE, TWO]
    (tmp_path / "secret").mkdir()
    write_safetensors(tmp_path / "secret" / "x", {"b": [2]})
    (snapshot / TWO).unlink()
    (snapshot / TWO).symlink_to(tmp_path / "secret" / "x")
    with pytest.raises(CorruptCheckpointError, match="outside"):
        open_checkpoint(snapshot, OPTIONS)


def test_a_duplicate_tensor_is_named(directory: Path) -> None:
    write_safetensors(directory / TWO, {"a": [2], "b": [2]})
    with pytest.raises(CorruptCheckpointError, match=rf"'a' is in both {ONE} and {TWO}"):
        open_checkpoint(directory, OPTIONS)


def test_names_a_tensor_that_is_not_in_its_shard(directory: Path) -> None:
    set_index(directory, {"a": ONE, "b": TWO, "c": TWO})
    with pytest.raises(CorruptCheckpointError, match=rf"tensor 'c' to {TWO}, which doesn't have it"):
        open_checkpoint(directory, OPTIONS)


@pytest.mark.parametrize("weight_map", [None, [], {}, "x", {"a": 3}, {"a": ""}, {"a": None}])
def test_a_malformed_index_is_an_error(directory: Path, weight_map: object) -> None:
    set_index(directory, weight_map)
    with pytest.raises(CorruptCheckpointError, match=r"index\.json.*(weight_map|file name)"):
        open_checkpoint(directory, OPTIONS)


def test_a_truncated_shard_is_an_error(directory: Path) -> None:
    (directory / TWO).write_bytes((directory / TWO).read_bytes()[:-1])
    with pytest.raises(CorruptCheckpointError, match=rf"{TWO}.*truncated"):
        open_checkpoint(directory, OPTIONS)


def test_a_truncated_index_is_an_error(directory: Path) -> None:
    path = directory / "model.safetensors.index.json"
    path.write_text(path.read_text()[:-5])
    with pytest.raises(CorruptCheckpointError, match=r"index\.json.*isn't valid JSON"):
        open_checkpoint(directory, OPTIONS)
