"""Digests that are computed while other code reads the files."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest

from onnxport.checkpoint import digest
from onnxport.checkpoint.digest import digesting, sha256_of_files
from onnxport.errors import CheckpointNotFoundError


def test_digests_equal_those_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    files = {"a": b"first", "shards/b": b"second" * 1_000_000}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    paths = [tmp_path / name for name in files]
    with digesting(paths, root=tmp_path) as digests:
        found = digests()
    assert found == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert found == sha256_of_files(paths, root=tmp_path)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with digesting([tmp_path / "gone"], root=tmp_path) as digests, pytest.raises(CheckpointNotFoundError):
        digests()


def test_an_error_stops_the_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(bytes(1_000_000))
    monkeypatch.setattr(digest, "_CHUNK_BYTES", 1)
    with pytest.raises(KeyboardInterrupt), digesting([tmp_path / "file"], root=tmp_path):
        raise KeyboardInterrupt
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("onnxport-digest")]
