"""Run a command and say what the whole process cost."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes of one unit of ru_maxrss."""


@dataclass(frozen=True)
class Cost:
    """Say what one process cost.

    Attributes:
        seconds: wall clock, from start to exit.
        peak: largest resident memory of the process, in bytes.
        written: bytes of the files that it left.
    """

    seconds: float
    peak: int
    written: int


def run(command: Sequence[str], output: Path, log: Path) -> Cost:
    """Run a command that writes a directory.

    Args:
        command: program and arguments.
        output: directory that it writes.
        log: file for what it prints.

    Raises:
        RuntimeError: it failed.
    """
    with log.open("w", encoding="utf-8") as stream:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise RuntimeError(f"{command[0]} ended with {process.returncode}: {' '.join(last)} (see {log})")
    written = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    return Cost(seconds, usage.ru_maxrss * _MAXRSS_UNIT, written)


def median(costs: Sequence[Cost]) -> Cost:
    """Return the median of each figure."""
    return Cost(
        statistics.median(cost.seconds for cost in costs),
        int(statistics.median(cost.peak for cost in costs)),
        int(statistics.median(cost.written for cost in costs)),
    )
