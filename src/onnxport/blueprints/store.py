"""A cache of bytes by key, one file per entry, in the user's cache directory.

Any number of processes may use it concurrently. It never fails an export: damaged entries are dropped and write errors
are ignored, both with a logged warning.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from onnxport.blueprints._entry import DamagedEntryError, Header, encode_start, read_entry, read_header
from onnxport.blueprints._partial import remove_abandoned, write_atomically

logger = logging.getLogger(__name__)

VARIABLE = "ONNXPORT_CACHE"
"""Environment variable with the directory of the cache."""
MAX_BYTES = 1 << 30
"""Maximum total size of the entries in bytes; beyond it, the least recently used ones are removed."""

_NAME = re.compile(r"[0-9a-f]{64}\.entry")


@dataclass(frozen=True)
class Entry:
    """An entry of the cache.

    Attributes:
        key: the key; empty for a damaged entry.
        type: type of the content, such as `blueprint`; `damaged` for a damaged entry.
        label: name for display.
        bytes: size of its file.
        created: creation time, in seconds since the epoch.
        used: time of the last access, in seconds since the epoch.
    """

    key: str
    type: str
    label: str
    bytes: int
    created: float
    used: float


@dataclass(frozen=True)
class Cleared:
    """What `Store.clear` removed.

    Attributes:
        entries: number of entries.
        bytes: their total size, and that of temporary files of killed processes.
    """

    entries: int
    bytes: int


@dataclass(frozen=True)
class _File:
    path: Path
    size: int
    used: float


def cache_directory() -> Path:
    """Return the directory in `ONNXPORT_CACHE`, or else `onnxport` in the user's cache directory."""
    from platformdirs import user_cache_path

    if directory := os.environ.get(VARIABLE):
        return Path(directory)
    try:
        return user_cache_path("onnxport", appauthor=False)
    except RuntimeError:  # a user without a home directory; writing to this path fails with a warning
        return Path(os.devnull) / "onnxport"


class Store:
    """A persistent mapping of keys to bytes.

    The file of an entry is written atomically; of several writers the last one wins. Its header has a SHA-256 of the
    entry, which `get` verifies.

    Args:
        directory: directory of the files, created by the first `put`; `cache_directory()` by default.
        max_bytes: maximum total size of the entries in bytes.
    """

    def __init__(self, directory: Path | None = None, max_bytes: int = MAX_BYTES) -> None:
        self.directory = cache_directory() if directory is None else directory
        self.max_bytes = max_bytes

    def get(self, key: str) -> bytes | None:
        """Return the content of an entry; None if it doesn't exist or is damaged."""
        path = self._path(key)
        try:
            with _opened(path) as descriptor:
                header, content = read_entry(descriptor)
            if header.key != key:
                raise DamagedEntryError(f"it has the key {header.key!r}")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except DamagedEntryError as error:
            self._drop(path, str(error))
            return None
        except OSError as error:
            self._drop(path, error.strerror or str(error))
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return content

    def put(self, key: str, type: str, label: str, content: bytes) -> None:
        """Store content under a key, replacing an existing entry; a failure is a logged warning.

        Args:
            key: any string that identifies the content.
            type: type of the content, such as `blueprint`.
            label: name for display.
            content: the bytes.
        """
        path = self._path(key)
        start = encode_start(Header(key, type, label, time.time()), content)
        if len(start) + len(content) > self.max_bytes:
            logger.info("%s isn't cached: it has %d bytes", label, len(content))
            return
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            remove_abandoned(self.directory)
            self._evict(len(start) + len(content), path)
            write_atomically(path, start, content)
        except OSError as error:
            logger.warning(
                "the cache %s can't be written (%s), and the export continues without it; set %s to another directory, "
                "or export with --no-cache",
                self.directory,
                error.strerror or error,
                VARIABLE,
            )

    def entries(self) -> tuple[Entry, ...]:
        """List all entries, the most recently used first; only headers are read.

        Raises:
            OSError: the directory can't be read.
        """
        entries = []
        for file in sorted(self._files(), key=lambda file: -file.used):
            try:
                with _opened(file.path) as descriptor:
                    header = read_header(descriptor)
                entries.append(Entry(header.key, header.type, header.label, file.size, header.created, file.used))
            except FileNotFoundError:
                continue
            except (DamagedEntryError, OSError) as error:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                entries.append(Entry("", "damaged", f"{reason} ({file.path.name})", file.size, file.used, file.used))
        return tuple(entries)

    def clear(self, *, older_than: float | None = None, keys: Collection[str] | None = None) -> Cleared:
        """Remove entries, and temporary files of killed processes.

        Args:
            older_than: remove only entries that weren't used for this many seconds; None for all.
            keys: remove only entries with these keys; None for all.

        Raises:
            OSError: the directory can't be read, or an entry can't be removed.
        """
        paths = None if keys is None else {self._path(key) for key in keys}
        latest = time.time() if older_than is None else time.time() - older_than
        count = size = 0
        for file in self._files():
            is_selected = paths is None or file.path in paths
            if is_selected and (older_than is None or file.used <= latest):
                with contextlib.suppress(FileNotFoundError):
                    _remove(file.path)
                    count, size = count + 1, size + file.size
        return Cleared(count, size + remove_abandoned(self.directory))

    def _path(self, key: str) -> Path:
        return self.directory / f"{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()}.entry"

    def _files(self) -> Iterator[_File]:
        """Yield the files of all entries, damaged ones included."""
        try:
            scanned = list(os.scandir(self.directory))
        except FileNotFoundError:
            return
        for entry in scanned:
            if _NAME.fullmatch(entry.name):
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    yield _File(Path(entry.path), status.st_size, status.st_mtime)

    def _evict(self, size: int, path: Path) -> None:
        """Remove the least recently used entries until one of `size` bytes at `path` fits."""
        files = sorted((file for file in self._files() if file.path != path), key=lambda file: file.used)
        total = size + sum(file.size for file in files)
        for file in files:
            if total <= self.max_bytes:
                return
            with contextlib.suppress(OSError):
                _remove(file.path)
            total -= file.size

    def _drop(self, path: Path, reason: str) -> None:
        try:
            _remove(path)
            outcome = "it was removed, and is computed again"
        except OSError as error:
            outcome = f"it can't be removed ({error.strerror or error}), and is ignored"
        logger.warning("the cache entry %s can't be used (%s); %s", path, reason, outcome)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a file for reading in a block, without blocking on FIFOs or devices."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """Remove an entry's file, or an empty directory of its name."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink()
