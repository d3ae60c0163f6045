"""Failures: one line on standard error, the exit code, a traceback only with `--debug`."""

from __future__ import annotations

import errno
import io
import logging
import os
import subprocess
import sys
import warnings

import pytest

from onnxport.cli._outcome import exit_code
from onnxport.errors import OptionError, OutputError, UnsupportedError, message_of


def failing(error: BaseException) -> int:
    def verb() -> int:
        raise error

    return exit_code(verb, debug=False)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UnsupportedError("no such\n  task"), 1, "onnxport: error: no such task"),
        (OptionError("--opset 3 is out of range"), 2, "onnxport: error: --opset 3 is out of range"),
        (OutputError("output x is not empty"), 1, "onnxport: error: output x is not empty"),
        (KeyboardInterrupt(), 130, "onnxport: interrupted"),
        (MemoryError(), 1, "onnxport: error: not enough memory; close other programs, or use a machine with more"),
        (
            ValueError("first\nsecond"),
            1,
            "onnxport: error: ValueError: first (this is a bug, run with --debug for the traceback)",
        ),
        (
            AssertionError(),
            1,
            "onnxport: error: AssertionError: (this is a bug, run with --debug for the traceback)",
        ),
        *(
            (OSError(number, os.strerror(number), "/x/y"), 1, f"onnxport: error: /x/y: {os.strerror(number)}")
            for number in (errno.ENOSPC, errno.EACCES, errno.EROFS)
        ),
        (OSError("can't load it"), 1, "onnxport: error: can't load it"),
    ],
)
def test_one_line(error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert failing(error) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"{line}\n"


def test_debug_prints_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(lambda: [][1], debug=True) == 1
    assert "Traceback" in capsys.readouterr().err


def test_message_of_an_import_error() -> None:
    assert "bug" in message_of(ModuleNotFoundError("No module named 'x'"))


def test_warnings_are_silenced_and_restored(capsys: pytest.CaptureFixture[str]) -> None:
    def verb() -> int:
        warnings.warn("noise", stacklevel=1)
        logging.getLogger("torch.onnx").warning("noise")
        logging.getLogger("torch.export").error("noise")
        logging.getLogger().critical("noise")
        logging.getLogger("onnxporter").warning("noise")
        own = logging.getLogger("own.handler")
        handler = logging.StreamHandler()
        own.addHandler(handler)
        own.warning("noise")
        own.removeHandler(handler)
        assert os.environ["TRANSFORMERS_VERBOSITY"] == "critical"
        return 0

    def state() -> tuple[object, ...]:
        own = logging.getLogger("onnxport").handlers
        return logging.getLogRecordFactory(), list(own), dict(os.environ), list(warnings.filters)

    before = state()
    assert exit_code(verb, debug=False) == 0
    assert capsys.readouterr().err == ""
    assert state() == before


def test_warnings_of_onnxport_are_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    def verb() -> int:
        logging.getLogger("onnxport.blueprints.store").warning("entry %s is\n damaged", "x")
        logging.getLogger("onnxport.weights").info("a detail")
        return 0

    assert exit_code(verb, debug=False) == 0
    assert capsys.readouterr() == ("", "onnxport: warning: entry x is damaged\n")


def test_characters_that_the_terminal_cannot_encode(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))

    def verb() -> int:
        sys.stdout.write("naïve …\n")
        return 0

    assert exit_code(verb, debug=False) == 0
    assert raw.getvalue() == b"na?ve ?\n"


def test_a_closed_standard_output() -> None:
    command = f"{sys.executable} -m onnxport list --json | head -c 10"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""
    assert len(done.stdout) == 10
