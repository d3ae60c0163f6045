"""Report the steps of a trace, which begin deep inside of it, to the progress of an export."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_REPORT: ContextVar[Callable[[str], None] | None] = ContextVar("report", default=None)


@contextmanager
def reporting_steps(report: Callable[[str], None]) -> Iterator[None]:
    """Call a function with the name of each step that begins in the block, in this thread."""
    token = _REPORT.set(report)
    try:
        yield
    finally:
        _REPORT.reset(token)


def begin_step(name: str) -> None:
    """Report that a step begins."""
    report = _REPORT.get()
    if report is not None:
        report(name)
