"""The cache returns an entry as it was stored, or nothing, whatever happens to its files or accesses it."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from onnxport.blueprints._entry import FORMAT
from onnxport.blueprints.store import Cleared, Store, cache_directory

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture
def file(store: Store) -> Path:
    """The file of an entry with the key `k`."""
    store.put("k", "blueprint", "BERT", CONTENT)
    return only_file(store)


def only_file(store: Store) -> Path:
    [path] = store.directory.iterdir()
    return path


@contextmanager
def unprivileged() -> Iterator[Path]:
    """Give a directory to a user without privileges, and run the block as that user."""
    with tempfile.TemporaryDirectory() as name:
        directory, before = Path(name), os.geteuid()
        if before == 0:
            os.chown(directory, 65534, 65534)
            os.seteuid(65534)
        try:
            yield directory
        finally:
            os.seteuid(before)


def test_an_entry_is_returned_as_it_was_stored(store: Store) -> None:
    assert store.get("k") is None
    for content in (CONTENT, b"", b"x"):
        store.put("k", "blueprint", "BERT", content)
        assert store.get("k") == content
    assert store.get("K") is None


@pytest.mark.parametrize("key", ["", "a/../b", "ü\n", "k" * 10_000, "\udc80"])
def test_any_text_is_a_key(store: Store, key: str) -> None:
    store.put(key, "blueprint", key, CONTENT)
    assert store.get(key) == CONTENT
    assert store.entries()[0].key == key
    assert only_file(store).parent == store.directory


def test_entries_are_described_without_their_content(store: Store, file: Path) -> None:
    before = time.time()
    os.utime(file, (before - 500, before - 500))
    store.put("other", "config", "GPT-2", b"12")
    os.utime(store._path("other"), (before - 400, before - 400))
    first, second = store.entries()
    assert (first.key, first.type, first.label) == ("other", "config", "GPT-2")
    assert (second.key, second.type, second.label) == ("k", "blueprint", "BERT")
    assert second.bytes == file.stat().st_size > len(CONTENT)
    assert before - 10 < second.created < before + 10
    assert abs(second.used - (before - 500)) < 1
    store.get("k")
    assert [entry.key for entry in store.entries()] == ["k", "other"]
    assert store.entries()[0].used >= before - 1


def test_only_the_user_can_access_the_files(store: Store, file: Path) -> None:
    assert file.stat().st_mode & 0o077 == 0
    assert store.directory.stat().st_mode & 0o077 == 0


def test_the_directory_is_created_with_the_first_entry(store: Store) -> None:
    assert store.get("k") is None
    assert store.entries() == ()
    assert store.clear() == Cleared(0, 0)
    assert not store.directory.exists()


@pytest.mark.parametrize("share", [0.0, 1e-9, 0.001, 0.005, 0.01, 0.015, 0.5, 0.9999])
def test_a_truncated_entry_is_dropped(store: Store, file: Path, share: float, caplog: pytest.LogCaptureFixture) -> None:
    size = min(round(file.stat().st_size * share) + (share > 0), file.stat().st_size - 1)
    os.truncate(file, size)
    check_dropped(store, file, caplog)


def test_an_entry_truncated_at_any_byte_of_its_start_is_dropped(store: Store, file: Path) -> None:
    whole = file.read_bytes()
    for size in range(200):
        file.write_bytes(whole[:size])
        assert store.get("k") is None, size
        assert not file.exists(), size


def test_a_flipped_bit_anywhere_is_detected(store: Store, file: Path) -> None:
    whole = file.read_bytes()
    for position in [*range(200), *range(200, len(whole), 997), len(whole) - 1]:
        for bit in (0, 7):
            changed = bytearray(whole)
            changed[position] ^= 1 << bit
            file.write_bytes(changed)
            assert store.entries()  # regardless of the header
            assert store.get("k") is None, position
            assert not file.exists(), position


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 5000, b"not an entry", os.urandom(3000), b"\x89OXPC\r\n\n" + b"\xff" * 300],
    ids=["empty", "zeros", "text", "noise", "impossible lengths"],
)
def test_a_foreign_file_is_dropped(store: Store, file: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    file.write_bytes(content)
    check_dropped(store, file, caplog)


def test_bytes_after_the_end_are_detected(store: Store, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    with file.open("ab") as appended:
        appended.write(b"more")
    check_dropped(store, file, caplog)


def test_an_entry_of_another_format_is_dropped(store: Store, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = bytearray(file.read_bytes())
    whole[8:10] = (FORMAT + 1).to_bytes(2, "little")
    file.write_bytes(whole)
    check_dropped(store, file, caplog)
    assert f"its format is {FORMAT + 1}" in caplog.text


def test_another_keys_entry_is_dropped(store: Store, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    store.put("other", "blueprint", "GPT-2", b"2")
    other = next(path for path in store.directory.iterdir() if path != file)
    other.rename(file)
    check_dropped(store, file, caplog)


@pytest.mark.parametrize("case", ["directory", "pipe", "broken link", "link to itself"])
def test_something_else_under_its_name_is_dropped(
    store: Store, file: Path, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    file.unlink()
    make = {
        "directory": file.mkdir,
        "pipe": lambda: os.mkfifo(file),
        "broken link": lambda: file.symlink_to("nothing"),
        "link to itself": lambda: file.symlink_to(file.name),
    }
    make[case]()
    assert len(store.entries()) == (case != "broken link")
    assert store.get("k") is None
    store.put("k", "blueprint", "BERT", CONTENT)
    assert store.get("k") == CONTENT


def test_a_directory_with_files_under_its_name_is_kept(
    store: Store, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.unlink()
    file.mkdir()
    (file / "somebody's").write_text("work")
    assert store.get("k") is None
    store.put("k", "blueprint", "BERT", CONTENT)
    assert store.get("k") is None
    assert (file / "somebody's").read_text() == "work"
    assert "can't be removed" in caplog.text
    assert "can't be written" in caplog.text


def check_dropped(store: Store, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert store.get("k") is None
    assert not file.exists()
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert str(file) in record.getMessage()
    store.put("k", "blueprint", "BERT", CONTENT)
    assert store.get("k") == CONTENT
    assert len(caplog.records) == 1


def test_an_unreadable_entry_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    with unprivileged() as directory:
        store = Store(directory)
        store.put("k", "blueprint", "BERT", CONTENT)
        file = only_file(store)
        file.chmod(0)
        assert [entry.type for entry in store.entries()] == ["damaged"]
        check_dropped(store, file, caplog)
        assert "Permission denied" in caplog.text


def test_a_read_only_directory_is_still_read(caplog: pytest.LogCaptureFixture) -> None:
    with unprivileged() as directory:
        store = Store(directory)
        store.put("k", "blueprint", "BERT", CONTENT)
        directory.chmod(0o500)
        try:
            assert store.get("k") == CONTENT
            assert not caplog.records
            store.put("other", "blueprint", "GPT-2", CONTENT)
            assert store.get("other") is None
            [record] = caplog.records
            assert "Permission denied" in record.getMessage()
            assert "ONNXPORT_CACHE" in record.getMessage()
            file = only_file(store)
            os.truncate(file, 20)
            assert store.get("k") is None
            assert "can't be removed" in caplog.text
            with pytest.raises(PermissionError):
                store.clear()
        finally:
            directory.chmod(0o700)


def test_a_directory_that_cannot_be_made(caplog: pytest.LogCaptureFixture) -> None:
    store = Store(Path(os.devnull) / "onnxport")
    assert store.get("k") is None
    assert not caplog.records
    store.put("k", "blueprint", "BERT", CONTENT)
    assert len(caplog.records) == 1


def test_a_full_disk_leaves_no_file(store: Store, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))  # writes fail in the middle, as on a full disk
    try:
        store.put("k", "blueprint", "BERT", b"x" * (1 << 18))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.strerror(errno.EFBIG) in caplog.text
    assert store.get("k") == CONTENT
    assert only_file(store) == file


def test_least_recently_used_entries_are_removed_first(tmp_path: Path) -> None:
    store = Store(tmp_path, max_bytes=4000)
    for number, key in enumerate("abc"):
        store.put(key, "blueprint", key, b"x" * 1000)
        os.utime(store._path(key), (number, number))
    assert store.get("a") is not None  # the last used now
    store.put("d", "blueprint", "d", b"x" * 1000)
    assert [key for key in "abcd" if store.get(key) is not None] == ["a", "c", "d"]
    store.put("d", "blueprint", "d", b"x" * 1500)
    assert [key for key in "abcd" if store.get(key) is not None] == ["a", "c", "d"]
    store.put("e", "blueprint", "e", b"x" * 10_000)
    assert store.get("e") is None
    assert len(store.entries()) == 3
    assert sum(entry.bytes for entry in store.entries()) <= 4000


def test_clear(store: Store) -> None:
    for key, days in (("a", 1), ("b", 10), ("c", 100)):
        store.put(key, "blueprint", key, CONTENT)
        used = time.time() - days * 86400
        os.utime(store._path(key), (used, used))
    (store.directory / "somebody's").write_text("work")
    sizes = {entry.key: entry.bytes for entry in store.entries()}
    assert store.clear(older_than=50 * 86400) == Cleared(1, sizes["c"])
    assert store.clear(keys=["a", "nothing"]) == Cleared(1, sizes["a"])
    assert store.clear(keys=["b"], older_than=50 * 86400) == Cleared(0, 0)
    store._path("damaged").write_bytes(b"")
    assert store.clear() == Cleared(2, sizes["b"])
    assert [path.name for path in store.directory.iterdir()] == ["somebody's"]


def test_the_location_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("ONNXPORT_CACHE", raising=False)
    assert cache_directory() == tmp_path / ".cache" / "onnxport"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_directory() == tmp_path / ".cache" / "onnxport"
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_directory() == Path("/caches/onnxport")
    monkeypatch.setenv("ONNXPORT_CACHE", "/mine")
    assert cache_directory() == Path("/mine") == Store().directory
    monkeypatch.setenv("ONNXPORT_CACHE", "")
    assert cache_directory() == Path("/caches/onnxport")

    def homeless(*_: object, **__: object) -> Path:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr("platformdirs.user_cache_path", homeless)
    monkeypatch.delenv("XDG_CACHE_HOME")
    Store().put("k", "blueprint", "BERT", CONTENT)


CONTENT_OF = """
import hashlib, random, sys
from pathlib import Path
from onnxport.blueprints.store import Store

def content(seed):
    body = random.Random(seed).randbytes(100_000 + seed % 1000 * 100)
    return hashlib.sha256(body).digest() + body

def sound(found):
    return hashlib.sha256(found[32:]).digest() == found[:32]
"""
MANY = """
store, own = Store(Path(sys.argv[1]), max_bytes=int(sys.argv[3])), random.Random(int(sys.argv[2]))
hits = 0
for turn in range(150):
    key = f"key {own.randrange(6)}"
    chance = own.random()
    if chance < 0.45:
        store.put(key, "blueprint", key, content(own.randrange(10**6)))
    elif chance < 0.97:
        found = store.get(key)
        assert found is None or sound(found)
        hits += found is not None
    elif chance < 0.99:
        store.entries()
    else:
        store.clear(keys=[key])
print(hits)
"""
FOREVER = """
store, seed = Store(Path(sys.argv[1])), int(sys.argv[2])
print("begun", flush=True)
while True:
    seed += 1
    store.put(f"key {seed % 3}", "blueprint", "x", content(seed))
"""


@pytest.mark.parametrize("max_bytes", [1 << 30, 500_000])
def test_many_concurrent_processes(tmp_path: Path, max_bytes: int) -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", CONTENT_OF + MANY, str(tmp_path), str(seed), str(max_bytes)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in range(8)
    ]
    answers = [worker.communicate() for worker in workers]
    assert [error for _, error in answers] == [""] * 8  # neither a failure nor a warning
    assert sum(int(hits) for hits, _ in answers) > 50
    assert all(entry.type == "blueprint" for entry in Store(tmp_path).entries())
    assert all(path.suffix == ".entry" for path in tmp_path.iterdir())


def test_killed_writers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, chance = Store(tmp_path), random.Random(0)
    for turn in range(25):
        worker = subprocess.Popen(
            [sys.executable, "-c", CONTENT_OF + FOREVER, str(tmp_path), str(turn * 1000)], stdout=subprocess.PIPE
        )
        assert worker.stdout is not None
        worker.stdout.readline()
        time.sleep(chance.random() * 0.03)
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
        for key in ("key 0", "key 1", "key 2"):
            found = store.get(key)
            assert found is None or hashlib.sha256(found[32:]).digest() == found[:32]
    assert not caplog.records  # no process ever reads a partial entry
    store.put("k", "blueprint", "BERT", CONTENT)
    assert all(path.suffix == ".entry" for path in tmp_path.iterdir())


def test_only_abandoned_files_are_removed(store: Store, file: Path) -> None:
    held, left = store.directory / ".entry.held.partial", store.directory / ".entry.left.partial"
    for path in (held, left, store.directory / "other.partial"):
        path.write_bytes(b"12345")
    with held.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert store.clear(keys=[]) == Cleared(0, 5)
    assert {path.name for path in store.directory.iterdir()} == {file.name, held.name, "other.partial"}


def test_without_locks_abandoned_files_are_found_by_age(
    store: Store, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxport.blueprints._partial.lock", lambda *_, **__: None)
    young, old = store.directory / ".entry.young.partial", store.directory / ".entry.old.partial"
    for path in (young, old):
        path.write_bytes(b"12345")
    os.utime(old, (1, 1))
    store.put("k", "blueprint", "BERT", b"new")
    assert store.get("k") == b"new"
    assert {path.name for path in store.directory.iterdir()} == {file.name, young.name}


def test_torch_and_transformers_are_not_imported() -> None:
    heavy = ("torch", "transformers", "onnxruntime", "onnx", "onnx_ir", "numpy")
    code = f"import sys, onnxport.blueprints.store; assert not [name for name in {heavy!r} if name in sys.modules]"
    subprocess.run([sys.executable, "-c", code], check=True)
