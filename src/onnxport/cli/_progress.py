"""A bar on standard error for whatever takes long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Callable[[str, float | None], None]]:
    """Give a callback that shows a stage and the share of it that is done.

    Args:
        quiet: show nothing.

    Yields:
        `callback(stage, share)`; a share of None pulses.
    """
    if quiet:
        yield lambda stage, done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("start", total=None)

        def show(stage: str, done: float | None) -> None:
            progress.update(task, description=stage, total=None if done is None else 1.0, completed=done or 0.0)

        yield show
