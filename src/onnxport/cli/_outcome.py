"""Map a verb's result or error to an exit code: one line per error on stderr, tracebacks only with --debug."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from onnxport._process import INTERRUPTED, UnwritableOutputError, discard_output, write_error, writing_output
from onnxport.errors import OptionError, message_of, one_line

DONE, FAILED, MISUSE = 0, 1, 2


def exit_code(verb: Callable[[], int], *, debug: bool) -> int:
    """Run a verb and return its exit code; every error becomes one line on standard error.

    Args:
        verb: function that runs the verb and returns `DONE` or `FAILED`.
        debug: print the traceback of an error, and the warnings of other packages.
    """
    try:
        with contextlib.nullcontext() if debug else quiet_packages(), _printable_output():
            code = verb()
            with writing_output():
                sys.stdout.flush()
            return code
    except KeyboardInterrupt:
        return interrupted()
    except BrokenPipeError:
        discard_output()
        return FAILED
    except UnwritableOutputError as error:
        print_error(f"standard output can't be written: {error}; redirect it to a file on a disk with free space")
        return FAILED
    except Exception as error:  # noqa: BLE001  # the process's top-level handler: any error becomes one line
        if debug:
            traceback.print_exc()
        print_error(message_of(error))
        return MISUSE if isinstance(error, OptionError) else FAILED


def interrupted() -> int:
    """Report that Ctrl-C ended the command; return the exit code."""
    write_error("onnxport: interrupted\n")
    return INTERRUPTED


def print_error(text: str) -> None:
    """Print an error's line to standard error."""
    write_error(f"onnxport: error: {text}\n")


@contextlib.contextmanager
def quiet_packages() -> Iterator[None]:
    """Hide the warnings and logs of other packages in a block, and print onnxport's warnings, one line each.

    Their errors are raised as well, and reported once. Filters, handlers and the environment are restored afterwards.
    """
    before = {name: os.environ.get(name) for name in _QUIET}
    logger, make_record = logging.getLogger("onnxport"), logging.getLogRecordFactory()
    handler = _WarningLine(logging.WARNING)

    def make_quiet_record(*arguments: Any, **keywords: Any) -> logging.LogRecord:
        record = make_record(*arguments, **keywords)
        if not f"{record.name}.".startswith("onnxport."):
            record.levelno = -1  # below the level of every handler, whichever package installed it
        return record

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.setLogRecordFactory(make_quiet_record)
        logger.addHandler(handler)
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logging.setLogRecordFactory(make_record)
            for name, previous in before.items():
                if previous is None:
                    os.environ.pop(name, None)


_QUIET = {"TRANSFORMERS_VERBOSITY": "critical", "TORCH_CPP_LOG_LEVEL": "FATAL"}
"""Environment variables that packages read when they are imported, to the values with which they print least."""


class _WarningLine(logging.Handler):
    """Print a record as one line, like an error."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "error" if record.levelno > logging.WARNING else "warning"
        write_error(f"onnxport: {level}: {one_line(record.getMessage())}\n")


@contextlib.contextmanager
def _printable_output() -> Iterator[None]:
    """Replace characters that standard output's encoding lacks by `?` instead of failing."""
    before = getattr(sys.stdout, "errors", None)
    if before is None or not hasattr(sys.stdout, "reconfigure"):
        yield
        return
    sys.stdout.reconfigure(errors="replace")
    try:
        yield
    finally:
        sys.stdout.reconfigure(errors=before)
