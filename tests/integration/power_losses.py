"""Directories as they may be after a power loss, from a recording of what a process did to them.

A file system keeps what was flushed (`os.fsync`), and may or may not keep later changes: of each directory any later
list of names, of each file any later content, and nothing of a file that was never flushed. Directories and files are
independent of each other, as for the file systems that Pillai et al. examine in "All File Systems Are Not Created
Equal" (OSDI 2014).
"""

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

Tree = dict[str, bytes]
"""Relative path of each file to its content; an empty directory is a path that ends in a slash."""
WATCHED_EVENTS = ("open", "os.", "shutil.", "ctypes.call", "tempfile.")
"""Audit events before which the directory is read."""
_MIXTURES = 40
"""Random states for each moment, besides those with all oldest and all newest versions."""


@dataclass
class _Item:
    """A file or a directory over time.

    Attributes:
        flushed: the time until which its changes are on disk; -1 if it was never flushed.
        versions: time of each change, and the content from then on: bytes, or names to identifiers of items.
    """

    flushed: int = -1
    versions: list[tuple[int, bytes | dict[str, int]]] = field(default_factory=list)


class Recording:
    """What happened in a directory.

    Args:
        root: the directory; what it holds at first is on disk.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._items: dict[int, _Item] = {}
        self._flushes: list[tuple[int, int]] = []
        self._identifiers: dict[int, int] = {}
        self._lock = threading.RLock()
        self._reading = False
        self.moments = 0
        self._read()
        for item in self._items.values():
            item.flushed = 0
        self._flushes = [(0, identifier) for identifier in self._items]

    def observe(self, flushed: int | None = None) -> None:
        """Read the directory, and note the file or directory (a number of an inode) that was flushed."""
        with self._lock:
            if self._reading:
                return
            self._reading = True
            try:
                self.moments += 1
                self._read()
                if flushed in self._identifiers:
                    self._flushes.append((self.moments, self._identifiers[flushed]))
            finally:
                self._reading = False

    def _read(self) -> None:
        found: dict[int, int] = {}
        self._read_item(self._root, found)
        self._identifiers = found  # an inode that is missing now may be another file later

    def _read_item(self, path: Path, found: dict[int, int]) -> int:
        inode = path.stat().st_ino
        identifier = found.setdefault(inode, self._identifiers.get(inode, len(self._items)))
        item = self._items.setdefault(identifier, _Item())
        content: bytes | dict[str, int]
        if path.is_dir():
            content = {name: self._read_item(path / name, found) for name in sorted(os.listdir(path))}
        else:
            content = path.read_bytes()
        if not item.versions or item.versions[-1][1] != content:
            item.versions.append((self.moments, content))
        return identifier

    def states(self, moment: int, seed: int) -> Iterator[Tree]:
        """Yield trees that may be left if the power fails at a moment."""
        generator = random.Random(seed)
        choices: list[Callable[[int], int]] = [lambda _: 0, lambda count: count - 1]  # all oldest, all newest
        for choose in (*choices, *[generator.randrange] * _MIXTURES):
            tree: Tree = {}
            self._build(0, "", moment, choose, tree)
            yield tree

    def _build(self, identifier: int, path: str, moment: int, choose: Callable[[int], int], tree: Tree) -> None:
        flushed = max((time for time, item in self._flushes if item == identifier and time <= moment), default=-1)
        versions = [(time, content) for time, content in self._items[identifier].versions if time <= moment]
        kept = [content for index, (_, content) in enumerate(versions)
                if index + 1 == len(versions) or versions[index + 1][0] > flushed]  # fmt: skip
        if flushed < 0:
            kept.insert(0, b"" if isinstance(versions[0][1], bytes) else {})
        content = kept[choose(len(kept))]
        if isinstance(content, bytes):
            tree[path] = content
            return
        if not content and path:
            tree[f"{path}/"] = b""
        for name, child in content.items():
            self._build(child, f"{path}/{name}" if path else name, moment, choose, tree)


@contextmanager
def recorded(root: Path) -> Iterator[Recording]:
    """Record what this process does to a directory within the block; the block may use threads."""
    recording, fsync, is_active = Recording(root), os.fsync, [True]

    def hook(event: str, _: object) -> None:
        if is_active[0] and event.startswith(WATCHED_EVENTS):
            recording.observe()

    def flush(descriptor: int) -> None:
        fsync(descriptor)
        recording.observe(os.fstat(descriptor).st_ino)

    sys.addaudithook(hook)  # can't be removed again
    os.fsync = flush
    try:
        yield recording
        recording.observe()
    finally:
        os.fsync = fsync
        is_active[0] = False


def write_tree(tree: Tree, root: Path) -> None:
    """Write a tree to an empty directory."""
    for name, content in tree.items():
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def files_under(tree: Tree, directory: str) -> Tree | None:
    """Return the files of a directory of a tree; None if there is no such directory."""
    prefix = f"{directory}/"
    found = {name.removeprefix(prefix): content for name, content in tree.items() if name.startswith(prefix)}
    return {name: content for name, content in found.items() if name} if found else None
