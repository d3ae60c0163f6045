"""Run a command: its standard streams may be closed, full or without a reader, and Ctrl-C ends it quietly."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import IO

INTERRUPTED = 130


class UnwritableOutputError(Exception):
    """Standard output can't be written; the message has the system's reason."""


def run_process(load: Callable[[], Callable[[], int]]) -> int:
    """Import and run a command as the process's main function.

    Args:
        load: imports the command and returns it; Ctrl-C ends the process while it runs, without a traceback.

    Returns:
        The command's exit code, which Ctrl-C doesn't change any more; 130 if Ctrl-C ended it.
    """
    open_closed_streams()
    default = signal.getsignal(signal.SIGINT)
    if (
        default is signal.default_int_handler
    ):  # not if the process was started with Ctrl-C ignored, as in the background
        signal.signal(signal.SIGINT, _end)
    command = load()
    try:
        if default is signal.default_int_handler:
            signal.signal(signal.SIGINT, default)
        code = command()
    except KeyboardInterrupt:
        write_error("onnxport: interrupted\n")
        code = INTERRUPTED
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code


def python_command(*arguments: str) -> list[str]:
    """Return a command that runs this Python and imports nothing from the current directory.

    That may be a stranger's: with `-m` and `-c`, Python looks there first, and would run a `json.py`.
    """
    return [sys.executable, "-P", *arguments]


def _end(_: int, frame: FrameType | None) -> None:
    write_error("onnxport: interrupted\n")
    os._exit(INTERRUPTED)


def open_closed_streams() -> None:
    """Open closed standard streams on the null device, so that no file that is written gets their descriptors."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, which is this one
            os.set_inheritable(descriptor, True)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)


def write_error(text: str) -> None:
    """Write to standard error; nowhere if that is full or has no reader, which doesn't end the command."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        _discard(sys.stderr)


@contextlib.contextmanager
def writing_output() -> Iterator[None]:
    """Write to standard output in a block.

    Raises:
        BrokenPipeError: it has no reader.
        UnwritableOutputError: it can't be written for another reason, such as a full disk.
    """
    try:
        yield
    except BrokenPipeError:
        discard_output()
        raise
    except OSError as error:
        discard_output()
        raise UnwritableOutputError(error.strerror or str(error)) from error


def discard_output() -> None:
    """Redirect standard output to the null device, also what is buffered."""
    _discard(sys.stdout)


def _discard(stream: IO[str]) -> None:
    """Redirect a stream to the null device: Python flushes what couldn't be written once more at exit, and fails."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
