"""The cache: bytes under a key, one file each, under the user's cache directory.

Any number of processes may use it at once. It never costs an export: what is damaged is dropped, what can't be written
isn't, and either is a logged warning.
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

from onnxport.blueprints._entry import DamagedEntryError, Header, packed, read_entry, read_header
from onnxport.blueprints._partial import remove_abandoned, write_whole

logger = logging.getLogger(__name__)

VARIABLE = "ONNXPORT_CACHE"
"""Environment variable that names the directory of the cache."""
MAX_BYTES = 1 << 30
"""Bytes of all entries together; beyond them, those that weren't used for longest go."""

_NAME = re.compile(r"[0-9a-f]{64}\.entry")


@dataclass(frozen=True)
class Entry:
    """Describe an entry of the cache.

    Attributes:
        key: what it is looked up by; empty where the entry is damaged.
        kind: type of its content.
        label: its name for people.
        bytes: size of its file.
        created: when it was made, in seconds since 1970.
        used: when it was last asked for, or made.
    """

    key: str
    kind: str
    label: str
    bytes: int
    created: float
    used: float


@dataclass(frozen=True)
class Cleared:
    """Say what was removed.

    Attributes:
        entries: how many entries.
        bytes: their bytes, and those that killed processes had left.
    """

    entries: int
    bytes: int


@dataclass(frozen=True)
class _File:
    path: Path
    size: int
    used: float


def cache_directory() -> Path:
    """Return the directory that `ONNXPORT_CACHE` names, else `onnxport` in the user's cache directory."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # others are to be ignored, says the specification
        return Path(base) / "onnxport"
    try:
        return Path.home() / ".cache" / "onnxport"
    except RuntimeError:  # a user without a home: nothing can be written there, which is a warning
        return Path(os.devnull) / "onnxport"


class Store:
    """Keep bytes under keys.

    An entry's file is written under another name and renamed, so nobody sees a part of it; of several writers the last
    one wins. Its header holds a SHA-256 of everything, which `get` checks.

    Args:
        directory: where the files are; made when something is put there. `cache_directory()` without.
        max_bytes: bytes of all entries together.
    """

    def __init__(self, directory: Path | None = None, max_bytes: int = MAX_BYTES) -> None:
        self.directory = cache_directory() if directory is None else directory
        self.max_bytes = max_bytes

    def get(self, key: str) -> bytes | None:
        """Return the content of an entry, None where there is none that is sound."""
        path = self._path(key)
        try:
            with _opened(path) as descriptor:
                header, content = read_entry(descriptor)
            if header.key != key:
                raise DamagedEntryError(f"it holds the key {header.key!r}")
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

    def put(self, key: str, kind: str, label: str, content: bytes) -> None:
        """Keep content under a key, instead of what was there; where that can't be done, log a warning.

        Args:
            key: any text in which everything is that shapes the content.
            kind: type of the content, such as `blueprint`.
            label: its name for people.
            content: the bytes.
        """
        path = self._path(key)
        start = packed(Header(key, kind, label, time.time()), content)
        if len(start) + len(content) > self.max_bytes:
            logger.info("%s isn't kept in the cache: it has %d bytes", label, len(content))
            return
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            remove_abandoned(self.directory)
            self._make_room(len(start) + len(content), path)
            write_whole(path, start, content)
        except OSError as error:
            logger.warning(
                "the cache %s can't be written (%s), and the export goes on without it; set %s to another directory, "
                "or export with --no-cache",
                self.directory,
                error.strerror or error,
                VARIABLE,
            )

    def entries(self) -> tuple[Entry, ...]:
        """Describe all entries, the last used first; only headers are read.

        Raises:
            OSError: the directory can't be read.
        """
        found = []
        for file in sorted(self._files(), key=lambda file: -file.used):
            try:
                with _opened(file.path) as descriptor:
                    header = read_header(descriptor)
                found.append(Entry(header.key, header.kind, header.label, file.size, header.created, file.used))
            except FileNotFoundError:
                continue
            except (DamagedEntryError, OSError) as error:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                found.append(Entry("", "damaged", f"{reason} ({file.path.name})", file.size, file.used, file.used))
        return tuple(found)

    def clear(self, *, older_than: float | None = None, keys: Collection[str] | None = None) -> Cleared:
        """Remove entries, and what killed processes have left.

        Args:
            older_than: only those that weren't used for so many seconds; all without.
            keys: only these; all without.

        Raises:
            OSError: the directory can't be read, or an entry can't be removed.
        """
        wanted = None if keys is None else {self._path(key) for key in keys}
        latest = time.time() if older_than is None else time.time() - older_than
        count = size = 0
        for file in self._files():
            chosen = wanted is None or file.path in wanted
            if chosen and (older_than is None or file.used <= latest):
                with contextlib.suppress(FileNotFoundError):
                    _remove(file.path)
                    count, size = count + 1, size + file.size
        return Cleared(count, size + remove_abandoned(self.directory))

    def _path(self, key: str) -> Path:
        return self.directory / f"{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()}.entry"

    def _files(self) -> Iterator[_File]:
        """Yield the files of all entries, sound or not."""
        try:
            scanned = list(os.scandir(self.directory))
        except FileNotFoundError:
            return
        for entry in scanned:
            if _NAME.fullmatch(entry.name):
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    yield _File(Path(entry.path), status.st_size, status.st_mtime)

    def _make_room(self, needed: int, place: Path) -> None:
        """Remove the entries that weren't used for longest, until one more fits."""
        files = sorted((file for file in self._files() if file.path != place), key=lambda file: file.used)
        total = needed + sum(file.size for file in files)
        for file in files:
            if total <= self.max_bytes:
                return
            with contextlib.suppress(OSError):
                _remove(file.path)
            total -= file.size

    def _drop(self, path: Path, reason: str) -> None:
        try:
            _remove(path)
            outcome = "it is dropped, and made again"
        except OSError as error:
            outcome = f"it can't be removed ({error.strerror or error}), and isn't used"
        logger.warning("the cache entry %s can't be used (%s); %s", path, reason, outcome)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a file to read in a block; whatever has its name, this doesn't wait."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """Remove an entry's file; a directory in its place only where it is empty: nobody knows whose it is."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink()
