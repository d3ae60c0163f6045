"""Run a command and measure the time and memory of its process."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024
"""Unit of ru_maxrss in bytes."""


@dataclass(frozen=True)
class Cost:
    """Time and memory of one process.

    Attributes:
        seconds: wall clock, from start to exit.
        peak: peak resident set size in bytes, of the process or of one that it started and waited for.
        written: size of the output files in bytes.
        processor: CPU time of these processes in seconds.
    """

    seconds: float
    peak: int
    written: int
    processor: float = 0.0


def run(
    command: Sequence[str], output: Path, log: Path, environment: Mapping[str, str] | None = None, limit: float = 3600.0
) -> Cost:
    """Run a command that writes a directory.

    Args:
        command: program and arguments.
        output: directory that it writes.
        log: file for its standard output and standard error.
        environment: variables that are added to those of this process.
        limit: time limit in seconds, after which it is killed.

    Raises:
        RuntimeError: the command failed.
    """
    killed_here = threading.Event()
    with log.open("w", encoding="utf-8") as stream:
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        timer = threading.Timer(limit, _kill, (process.pid, killed_here))
        timer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - started
        except BaseException:
            _kill(process.pid, killed_here)
            raise
        finally:
            timer.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"took more than {limit:g} s" if killed_here.is_set() else _reason(process.returncode, log))
    written = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    return Cost(seconds, usage.ru_maxrss * _MAXRSS_UNIT, written, usage.ru_utime + usage.ru_stime)


def median(costs: Sequence[Cost]) -> Cost:
    """Return the median of each figure."""
    return Cost(
        statistics.median(cost.seconds for cost in costs),
        int(statistics.median(cost.peak for cost in costs)),
        int(statistics.median(cost.written for cost in costs)),
        statistics.median(cost.processor for cost in costs),
    )


def _kill(pid: int, killed: threading.Event) -> None:
    """Kill a process and its child processes, which are in the session that it leads."""
    killed.set()
    os.killpg(pid, signal.SIGKILL)


def _reason(code: int, log: Path) -> str:
    """Return how the process exited, and the last error in its log, or its last line."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    message = next((line for line in reversed(lines) if "Error" in line or "error" in line), "".join(lines[-1:]))
    status = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"{status}: {message[:300]}" if message else status
