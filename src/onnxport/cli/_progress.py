"""Progress on standard error: what is being done, and for how long. A bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from onnxport._process import write_error
from onnxport.options import Progress

_FIRST_REMINDER = 10.0
"""Seconds until a stage is printed again; the next intervals are twice as long each."""


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Progress]:
    """Yield a callback that shows a stage, its completed fraction and the elapsed seconds.

    Args:
        quiet: show nothing.

    Yields:
        `callback(stage, done)`; `done` is the completed fraction, None if unknown.
    """
    if quiet:
        yield lambda stage, done: None
    elif sys.stderr.isatty():
        with _bar() as show:
            yield show
    else:
        with _lines() as show:
            yield show


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.text import Text

    start = began = time.monotonic()

    class Seconds(ProgressColumn):
        """Show the seconds of the stage and of the whole command."""

        def render(self, task: Task) -> Text:
            now = time.monotonic()
            return Text(f"{now - began:.0f} s / {now - start:.0f} s")

    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), Seconds())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("start", total=None)

        def show(stage: str, done: float | None) -> None:
            nonlocal began
            if stage != progress.tasks[0].description:
                began = time.monotonic()
            progress.update(task, description=stage, total=None if done is None else 1.0, completed=done or 0.0)

        yield show


@contextmanager
def _lines() -> Iterator[Progress]:
    """Yield a callback that prints each stage when it begins, and while it lasts, without control characters."""
    lines = _Lines()
    try:
        yield lines.show
    finally:
        lines.stop()


class _Lines:
    """Print stages with the seconds since the command began."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._stage = ""
        self._stages = 0
        self._reminder: threading.Timer | None = None

    def show(self, stage: str, done: float | None) -> None:
        """Print a stage, unless it is the one that was printed last."""
        if stage != self._stage:
            self.stop()
            self._stage = stage
            self._print()
            self._remind(_FIRST_REMINDER)

    def stop(self) -> None:
        """Print no more reminders."""
        self._stages += 1
        if self._reminder is not None:
            self._reminder.cancel()

    def _print(self) -> None:
        write_error(f"onnxport: {self._stage} [{time.monotonic() - self._start:.1f} s]\n")

    def _remind(self, seconds: float) -> None:
        stages = self._stages

        def print_again() -> None:
            if stages == self._stages:
                self._print()
                self._remind(2 * seconds)

        self._reminder = threading.Timer(seconds, print_again)
        self._reminder.daemon = True
        self._reminder.start()
