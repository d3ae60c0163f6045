"""Processes that load a model once, and measure it whenever they are asked to: one for each side of a comparison."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from benchmarks.sides import REPOSITORY


class Served:
    """A side's process that has loaded, and warmed up."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self) -> dict[str, float]:
        """Let the process measure once, and return its figures."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        figures: dict[str, float] = json.loads(self._process.stdout.readline())
        return figures


@contextmanager
def started(command: Sequence[str]) -> Iterator[Served]:
    """Start a process, wait until it is ready, and kill it after the block."""
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY}"}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables)
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise RuntimeError(f"{' '.join(command)} failed")
        yield Served(process)
    finally:
        process.kill()
        process.wait()


def serve(load: Callable[[], Callable[[], dict[str, float]]]) -> int:
    """Load, and measure once for each line on standard input; what the libraries print goes to standard error."""
    output, sys.stdout = sys.stdout, sys.stderr
    measure = load()
    measure()
    print("ready", file=output, flush=True)
    for _ in sys.stdin:
        print(json.dumps(measure()), file=output, flush=True)
    return 0
