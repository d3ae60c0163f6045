"""A killed process leaves the old output or the new one, and the next export removes its files."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from safetensors.numpy import save_file

from onnxport.bundles import _stages, output
from onnxport.bundles.manifest import FILE_NAME, Manifest
from onnxport.bundles.output import check_output, staged, staged_files
from onnxport.errors import OutputError


def checkpoints(directory: Path) -> None:
    for version in (0, 1):
        (directory / f"v{version}").mkdir()
        random = np.random.default_rng(version)
        tensors = {f"w{index}": random.standard_normal((300, 200)).astype(np.float32) for index in range(12)}
        save_file(tensors, directory / f"v{version}" / "model.safetensors")


MODES = [
    ("SIGKILL", "copy", 0),
    ("SIGKILL", "link", 0),
    ("timed", "copy", 0),
    ("SIGINT", "copy", 0),
    ("ENOSPC", "copy", 0),
]
ALL = [
    *product(("SIGKILL", "SIGTERM", "SIGINT", "ENOSPC", "EMFILE", "EIO"), ("copy", "link"), [0]),
    *product(["timed"], ("copy", "link"), range(20)),
]
"""More than 2,000 kills and 300 faults."""


@pytest.mark.parametrize(
    ("mode", "weights", "seed"),
    MODES + [pytest.param(*case, marks=pytest.mark.wide) for case in ALL if case not in MODES],
)
def test_an_export_killed_at_any_time(mode: str, weights: str, seed: int, tmp_path: Path) -> None:
    checkpoints(tmp_path)
    command = [sys.executable, "-m", "tests.integration.kill_writer", str(tmp_path), mode, weights, str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["deaths"] >= 25
    assert result["kept"] >= 10 and result["changed"] >= 1
    assert result["left"] == ["out", "v0", "v1"]


FAULTS = [("EIO", 50, 500, 90), ("ENOSPC", 95, 500, 90)]
WIDE_FAULTS = [(mode, 1, 500, 1) for mode in ("EIO", "ENOSPC", "EMFILE", "SIGKILL", "SIGINT")]


@pytest.mark.timeout(0)
@pytest.mark.parametrize(
    ("mode", "first", "last", "step"),
    FAULTS + [pytest.param(*case, marks=pytest.mark.wide) for case in WIDE_FAULTS],
)
def test_a_fault_in_the_export_of_a_model(mode: str, first: int, last: int, step: int, tmp_path: Path) -> None:
    """The output is a whole one, and an error is one line that isn't called a bug."""
    command = [
        sys.executable,
        "-m",
        "tests.integration.model_faults",
        str(tmp_path),
        mode,
        *map(str, (first, last, step)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["ended"] >= 3
    assert not result["unclear"]
    assert result["left"] == ["log", "out", "v0", "v1"]


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


def write(stage: Path, text: str) -> None:
    """Write the files of an export that are checked before it is replaced."""
    (stage / "file").write_text(text)
    (stage / FILE_NAME).write_text(Manifest("none", {}, {}, {}, (), {}, ("file",)).to_json())


def test_two_exports_to_one_output_do_not_interfere(tmp_path: Path) -> None:
    with staged(tmp_path / "out", force=True) as first:
        write(first, "first")
        with staged(tmp_path / "out", force=True) as second:
            assert first.is_dir()
            write(second, "second")
    assert (tmp_path / "out" / "file").read_text() == "first"
    assert names(tmp_path) == {"out"}


@pytest.mark.parametrize("replaces", [True, False])
def test_one_of_eight_exports_to_one_output_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaces: bool
) -> None:
    """If the file system has no exclusive rename, renaming to a directory with files fails, too."""
    if not replaces:
        monkeypatch.setattr(_stages, "_renameat2", lambda *_: False)
    together = Barrier(8)

    def export(text: str) -> str | None:
        try:
            with staged(tmp_path / "out") as stage:
                write(stage, text)
                together.wait()
        except OutputError as error:
            assert "was created during the export" in str(error)
            return None
        return text

    with ThreadPoolExecutor(8) as threads:
        succeeded = [text for text in threads.map(export, "abcdefgh") if text is not None]
    assert succeeded == [(tmp_path / "out" / "file").read_text()]
    assert names(tmp_path) == {"out"}
    assert names(tmp_path / "out") == {"file", FILE_NAME}


def directory_with_a_file(output: Path) -> None:
    output.mkdir()
    (output / "thesis.tex").write_text("mine")


def export_with_another_file(output: Path) -> None:
    output.mkdir()
    write(output, "old")
    (output / "thesis.tex").write_text("mine")


def export_with_a_link(output: Path) -> None:
    output.mkdir()
    write(output, "old")
    (output / "thesis").symlink_to(output.parent)


def export_with_an_empty_directory(output: Path) -> None:
    output.mkdir()
    write(output, "old")
    (output / "thesis").mkdir()


def file(output: Path) -> None:
    output.write_text("mine")


def link(output: Path) -> None:
    output.symlink_to(output.parent / "elsewhere")


APPEARING = [directory_with_a_file, export_with_another_file, export_with_a_link, export_with_an_empty_directory, file,
             link]  # fmt: skip


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("appear", APPEARING)
def test_files_that_appear_during_an_export_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, appear: Callable[[Path], None], force: bool, exchanges: bool
) -> None:
    if not exchanges:
        monkeypatch.setattr(_stages, "_renameat2", lambda *_: False)
    (tmp_path / "elsewhere").mkdir()
    output = tmp_path / "out"
    with pytest.raises(OutputError), staged(output, force=force) as stage:
        write(stage, "new")
        appear(output)
        before = output.lstat()
        files = names(output) if output.is_dir() else set()
    assert (output.lstat().st_ino, output.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert not output.is_dir() or names(output) == files
    assert names(tmp_path) == {"elsewhere", "out"}
    assert names(tmp_path / "elsewhere") == set()


def test_an_empty_directory_that_appears_is_kept_without_force(tmp_path: Path) -> None:
    """Its creator is about to write into it; a directory that existed before was chosen by the user."""
    (tmp_path / "chosen").mkdir()
    with staged(tmp_path / "chosen") as stage:
        write(stage, "new")
    with pytest.raises(OutputError), staged(tmp_path / "out") as stage:
        write(stage, "new")
        (tmp_path / "out").mkdir()
    assert names(tmp_path / "out") == set()
    assert names(tmp_path / "chosen") == {"file", FILE_NAME}


@pytest.mark.parametrize("exchanges", [True, False])
def test_files_that_appear_just_before_the_exchange_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    """The old output is checked again when it can no longer be accessed by its name."""
    output = tmp_path / "out"
    with staged(output) as stage:
        write(stage, "old")
    exchange = _stages.exchange

    def late(first: Path, second: Path) -> bool:
        if not (first / "thesis.tex").exists():
            (output / "thesis.tex").write_text("mine")
        return exchanges and exchange(first, second)

    monkeypatch.setattr(_stages, "exchange", late)
    with pytest.raises(OutputError, match=r"thesis\.tex"), staged(output, force=True) as stage:
        write(stage, "new")
    assert (output / "thesis.tex").read_text() == "mine"
    assert (output / "file").read_text() == "old"
    assert names(tmp_path) == {"out"}


def test_an_output_that_was_moved_aside_is_restored(tmp_path: Path) -> None:
    """If paths can't be exchanged atomically, a process may be killed between two renames."""
    (tmp_path / ".out.abcdefgh.old").mkdir()
    (tmp_path / ".out.abcdefgh.old" / "onnxport.json").write_text("{}")
    (tmp_path / ".out.abcdefgh.partial").mkdir()
    with pytest.raises(Exception, match="not empty; use --force"):
        check_output(tmp_path / "out", force=False)
    assert names(tmp_path / "out") == {"onnxport.json"}


def test_without_an_exchange_the_old_output_is_moved_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_stages, "exchange", lambda *_: False)
    for text in ("old", "new"):
        with staged(tmp_path / "out", force=True) as stage:
            write(stage, text)
    assert (tmp_path / "out" / "file").read_text() == "new"
    assert names(tmp_path) == {"out"}


def test_a_stage_is_locked_while_it_is_written(tmp_path: Path) -> None:
    with staged(tmp_path / "out") as stage:
        descriptor = os.open(stage, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)


@pytest.mark.parametrize("exchanges", [True, False])
def test_old_files_are_removed_when_the_new_name_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    """After a power loss, the directory is the old one or the new one: a removal isn't kept without the rename."""
    events: list[str] = []
    real_sync, real_exchange, real_remove = _stages.sync, _stages.exchange, _stages.shutil.rmtree

    def sync(path: Path) -> None:
        events.append(f"sync {path.relative_to(tmp_path)}" if path.name in ("new", ".", "file", "out") else "sync")
        real_sync(path)

    def exchange(first: Path, second: Path) -> bool:
        events.append("exchange")
        return exchanges and real_exchange(first, second)

    def remove(path: Path, **options: bool) -> None:
        events.append("remove")
        real_remove(path, **options)

    with staged(tmp_path / "out") as stage:
        write(stage, "old")
    for module in (_stages, output):
        monkeypatch.setattr(module, "sync", sync)
    monkeypatch.setattr(_stages, "exchange", exchange)
    monkeypatch.setattr(_stages.shutil, "rmtree", remove)
    with staged(tmp_path / "out", force=True) as stage:
        write(stage, "new")
    exchanged, removed = events.index("exchange"), events.index("remove")
    assert "sync" in events[exchanged:removed]
    assert any(event.endswith("file") for event in events[:exchanged])


def test_every_new_parent_is_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[Path] = []
    for module in (_stages, output):
        monkeypatch.setattr(module, "sync", flushed.append)
    with staged(tmp_path / "a" / "b" / "out") as stage:
        write(stage, "new")
    published = [path for path in flushed if not path.name.endswith((".partial", "file", FILE_NAME))]
    assert set(published) == {tmp_path, tmp_path / "a", tmp_path / "a" / "b"}


def test_an_interrupt_before_the_stage_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: Path, *, wait: bool) -> int | None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_stages, "_locked_descriptor", interrupted)
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "a" / "out"):
        pass
    assert names(tmp_path) == set()


@pytest.mark.parametrize("others", [set(), {"thesis.tex"}])
def test_files_of_the_facade_are_replaced_together(tmp_path: Path, others: set[str]) -> None:
    output = tmp_path / "a" / "out"
    for text in ("old", "new"):
        for name in others:
            output.mkdir(parents=True, exist_ok=True)
            (output / name).write_text("mine")
        with staged_files(output) as stage:
            assert stage.stat().st_dev == output.stat().st_dev
            for name in ("encoder_model.onnx", "decoder_model.onnx"):
                (stage / name).write_text(text)
    assert {name: (output / name).read_text() for name in names(output)} == {
        "encoder_model.onnx": "new", "decoder_model.onnx": "new", **dict.fromkeys(others, "mine")
    }  # fmt: skip
    assert names(tmp_path / "a") == {"out"}


def test_a_directory_of_the_facade_is_exchanged_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the exchange, all old files are in place, and afterwards all new ones: there is no time between."""
    with staged_files(tmp_path / "out") as stage:
        (stage / "model.onnx").write_text("old")
        (stage / "model.onnx_data").write_text("old")
    seen: list[str] = []

    def exchange(first: Path, second: Path) -> bool:
        seen.extend(path.read_text() for path in sorted(second.iterdir()))
        done = _stages.exchange(first, second)
        seen.extend(path.read_text() for path in sorted(second.iterdir()))
        return done

    monkeypatch.setattr(output, "exchange", exchange)
    with staged_files(tmp_path / "out") as stage:
        (stage / "model.onnx").write_text("new")
        (stage / "model.onnx_data").write_text("new")
    assert seen == ["old", "old", "new", "new"]
    assert names(tmp_path) == {"out"}


@pytest.mark.parametrize("place", ["inside", "beside"])
def test_the_next_export_of_the_facade_removes_an_abandoned_stage(tmp_path: Path, place: str) -> None:
    output = tmp_path / "out"
    output.mkdir()
    abandoned = output / ".onnxport.abcdefgh.partial" if place == "inside" else tmp_path / ".out.abcdefgh.partial"
    abandoned.mkdir()
    (abandoned / "model.onnx").write_text("half")
    with staged_files(output) as stage:
        (stage / "model.onnx").write_text("new")
    assert names(output) == {"model.onnx"}
    assert names(tmp_path) == {"out"}


def test_a_failed_export_of_the_facade_changes_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="failed"), staged_files(tmp_path / "a" / "b"):
        raise RuntimeError("failed")
    assert names(tmp_path) == set()
