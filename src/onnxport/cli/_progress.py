"""Progress on standard error: a bar on a terminal, one line per stage elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from onnxport.options import Progress


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Progress]:
    """Yield a callback that shows a stage and its completed fraction.

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
        yield _lines()


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("start", total=None)

        def show(stage: str, done: float | None) -> None:
            progress.update(task, description=stage, total=None if done is None else 1.0, completed=done or 0.0)

        yield show


def _lines() -> Progress:
    """Return a callback that prints each stage once, without control characters, for logs."""
    shown = ""

    def show(stage: str, done: float | None) -> None:
        nonlocal shown
        if stage != shown:
            shown = stage
            sys.stderr.write(f"onnxport: {stage}\n")

    return show
