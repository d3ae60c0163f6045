"""A process that is killed leaves the old output or the new one, and the next one tidies up."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from onnxport.bundles import _stages
from onnxport.bundles.output import check_output, staged


def checkpoints(directory: Path) -> None:
    for version in (0, 1):
        (directory / f"v{version}").mkdir()
        random = np.random.default_rng(version)
        tensors = {f"w{index}": random.standard_normal((300, 200)).astype(np.float32) for index in range(12)}
        save_file(tensors, directory / f"v{version}" / "model.safetensors")


@pytest.mark.parametrize("weights", ["copy", "link"])
@pytest.mark.parametrize("kind", ["audited", "timed"])
def test_killed_at_any_moment(kind: str, weights: str, tmp_path: Path) -> None:
    checkpoints(tmp_path)
    command = [sys.executable, "-m", "tests.integration.kill_writer", str(tmp_path), kind, weights, "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["deaths"] >= 25
    assert told["kept"] >= 10 and told["changed"] >= 1
    assert told["left"] == ["out", "v0", "v1"]


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_only_abandoned_stages_of_the_same_output_are_removed(tmp_path: Path) -> None:
    strangers = {".out.notes.partial", ".out.partial", ".other.abcdefgh.partial", ".out.abcdefgh.partial.txt"}
    for name in strangers | {".out.abcdefgh.partial", ".out.alive_00.partial"}:
        (tmp_path / name).mkdir()
    (tmp_path / ".out.linked00.partial").symlink_to(tmp_path / ".out.partial")
    (tmp_path / ".out.afile000.partial").write_text("mine")
    alive = os.open(tmp_path / ".out.alive_00.partial", os.O_RDONLY)
    fcntl.flock(alive, fcntl.LOCK_EX)
    try:
        with staged(tmp_path / "out") as stage:
            assert stage.name not in strangers
            assert names(tmp_path) == {
                *strangers, stage.name, ".out.alive_00.partial", ".out.linked00.partial", ".out.afile000.partial"
            }  # fmt: skip
    finally:
        os.close(alive)


def test_two_exports_to_one_place_leave_each_other_alone(tmp_path: Path) -> None:
    with staged(tmp_path / "out") as first:
        (first / "file").write_text("first")
        with staged(tmp_path / "out") as second:
            assert first.is_dir()
            (second / "file").write_text("second")
    assert (tmp_path / "out" / "file").read_text() == "first"
    assert names(tmp_path) == {"out"}


def test_an_output_that_was_moved_aside_comes_back(tmp_path: Path) -> None:
    """Where two names can't change places at once, a process may be killed between two renames."""
    (tmp_path / ".out.abcdefgh.old").mkdir()
    (tmp_path / ".out.abcdefgh.old" / "onnxport.json").write_text("{}")
    (tmp_path / ".out.abcdefgh.partial").mkdir()
    with pytest.raises(Exception, match="not empty; use --force"):
        check_output(tmp_path / "out", force=False)
    assert names(tmp_path / "out") == {"onnxport.json"}


def test_without_an_exchange_the_old_output_is_moved_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_stages, "exchange", lambda *_: False)
    for text in ("old", "new"):
        with staged(tmp_path / "out") as stage:
            (stage / "file").write_text(text)
    assert (tmp_path / "out" / "file").read_text() == "new"
    assert names(tmp_path) == {"out"}


def test_a_stage_is_locked_while_it_is_written(tmp_path: Path) -> None:
    with staged(tmp_path / "out") as stage:
        descriptor = os.open(stage, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)
