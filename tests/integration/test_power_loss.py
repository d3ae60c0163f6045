"""After a power loss, an output is the old one, the new one, or absent; after success it is the new one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from onnxport.bundles import _stages
from onnxport.bundles.output import staged_files
from tests.integration import kill_writer
from tests.integration.power_losses import Tree, files_under, recorded, write_tree

RECOVERED = 8
"""States of each case, at least, from which a further export is made."""


def checkpoints(directory: Path) -> None:
    for version in (0, 1):
        (directory / f"v{version}").mkdir()
        tensors = {f"w{index}": np.full((3, 2), 10 * version + index, np.float32) for index in range(3)}
        save_file(tensors, directory / f"v{version}" / "model.safetensors")


def read_tree(directory: Path) -> Tree:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("weights", ["copy", "link"])
@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("replaces", [True, False])
def test_an_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaces: bool, exchanges: bool, weights: str
) -> None:
    if not exchanges:
        monkeypatch.setattr(_stages, "_renameat2", lambda *_: False)
    checkpoints(tmp_path)
    output = tmp_path / "out"
    kill_writer.export(tmp_path, 1, weights)
    new = read_tree(output)
    kill_writer.export(tmp_path, 0, weights)
    old = read_tree(output)
    assert old != new
    if not replaces:
        for path in (*output.iterdir(), output):
            path.rmdir() if path.is_dir() else path.unlink()
    with recorded(tmp_path) as recording:
        kill_writer.export(tmp_path, 1, weights)
    allowed = [new, *([old] if replaces else []), *([] if replaces and exchanges else [None])]
    seen: dict[str, Tree] = {}
    for moment in range(recording.moments + 1):
        for tree in recording.states(moment, seed=moment):
            assert files_under(tree, "out") in allowed, (moment, sorted(tree))
            seen[json.dumps({name: content.hex() for name, content in sorted(tree.items())})] = tree
    assert all(files_under(tree, "out") == new for tree in recording.states(recording.moments, seed=0))
    assert len(seen) >= RECOVERED
    for number, tree in enumerate(list(seen.values())[:: len(seen) // RECOVERED]):
        root = tmp_path / f"after{number}"
        root.mkdir()
        write_tree(tree, root)
        kill_writer.export(root, 1, weights)
        assert {path.name for path in root.iterdir()} == {"out", "v0", "v1"}
        assert read_tree(root / "out") == new


def test_files_of_the_facade(tmp_path: Path) -> None:
    """A directory that has no other files is exchanged as a whole."""
    names = ("encoder_model.onnx", "decoder_model.onnx")
    trees = {text: {name: text.encode() for name in names} for text in ("old", "new")}
    with staged_files(tmp_path / "out") as stage:
        write_tree(trees["old"], stage)
    with recorded(tmp_path) as recording, staged_files(tmp_path / "out") as stage:
        write_tree(trees["new"], stage)
    states = [tree for moment in range(recording.moments + 1) for tree in recording.states(moment, seed=moment)]
    for tree in states:
        found = files_under(tree, "out") or {}
        assert {name: value for name, value in found.items() if not name.startswith(".onnxport.")} in trees.values()
    assert files_under(states[-1], "out") == trees["new"]


def test_a_recording_tells_what_may_be_lost(tmp_path: Path) -> None:
    """Without a flush, a new file may be missing or empty, and a removed one may be there."""
    (tmp_path / "old").write_text("old")
    with recorded(tmp_path) as recording:
        (tmp_path / "new").write_text("new")
        (tmp_path / "old").unlink()
    found = [tree for moment in range(recording.moments + 1) for tree in recording.states(moment, seed=moment)]
    for tree in ({"old": b"old"}, {"old": b"old", "new": b""}, {"new": b""}, {"new": b"new"}):
        assert tree in found
    assert files_under(found[0], "out") is None
