"""The entry point of the `onnxport` command, which imports the rest when Ctrl-C is handled."""

from __future__ import annotations

from collections.abc import Callable

from onnxport._process import run_process


def process() -> int:
    """Run the command as the process's main function; return the exit code."""
    return run_process(_load)


def _load() -> Callable[[], int]:
    from onnxport.cli import process as command

    return command
