"""The error classes. Every error that a user can cause is one of these; the command prints its message and exits.

OnnxportError
├── OptionError            an option has an invalid value (also a ValueError)
├── MissingDependencyError a required package isn't installed (also an ImportError)
├── CheckpointError        the checkpoint can't be read
│   ├── CheckpointNotFoundError   no such directory, repository or file
│   ├── CorruptCheckpointError    a file is truncated, malformed or contradicts another
│   ├── ReplacedExportError       an exported directory was replaced by another while it was loaded
│   ├── UntrustedCodeError        reading the checkpoint would run code, without --trust-remote-code
│   └── WeightsMismatchError      parameters without a tensor, unused tensors, wrong shapes
├── UnsupportedError       the model type or the task isn't supported
├── TraceError             the model couldn't be captured as an ONNX graph
├── ValidationError        the exported graph differs from the original
│   └── NoKernelError             ONNX Runtime can't run it in its dtype
└── OutputError            the output can't be written, or would overwrite other files
"""

from __future__ import annotations

import reprlib


class OnnxportError(Exception):
    """Base class of all errors that onnxport raises on purpose."""


class OptionError(OnnxportError, ValueError):
    """An option has an invalid value; the message names the option, the value and the valid ones."""


class SizeLimitError(OptionError):
    """An input is longer than the size up to which a graph computes as the model, or has another size than it fixes."""


class MissingInputError(OptionError):
    """An input that a graph requires is missing; the message names it."""


class MissingDependencyError(OnnxportError, ImportError):
    """A required package isn't installed; the message has the command that installs it."""


class CheckpointError(OnnxportError):
    """A checkpoint can't be read."""


class CheckpointNotFoundError(CheckpointError):
    """A checkpoint, or a file that it must have, doesn't exist."""


class CorruptCheckpointError(CheckpointError):
    """A file of a checkpoint is truncated, malformed, or contradicts another file."""


class ReplacedExportError(CheckpointError):
    """An exported directory was replaced by another export while it was loaded."""


class UntrustedCodeError(CheckpointError):
    """Reading a checkpoint would run code that the user hasn't allowed."""


class WeightsMismatchError(CheckpointError):
    """A checkpoint's tensors don't fit the model: missing or unused tensors, or other shapes."""


class UnsupportedError(OnnxportError):
    """A model type or task isn't supported; the message names similar and supported ones."""


class TraceError(OnnxportError):
    """The model couldn't be captured as an ONNX graph."""


class ValidationError(OnnxportError):
    """The exported graph's outputs differ from the original model's."""


class NoKernelError(ValidationError):
    """ONNX Runtime has no kernel for an operator of the graph in its dtype, or NumPy no arrays of it."""


class OutputError(OnnxportError):
    """The output can't be written, or would overwrite files that onnxport didn't write."""


def brief(value: object) -> str:
    """Return a value as a message shows it: on one line, without control characters, cut to about 60 characters.

    Args:
        value: a value of a file that isn't trusted, of any type, size and depth.
    """
    text = _SHORT.repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"


_MAX_SHOWN = 80
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxlong = 30
_SHORT.maxlist = _SHORT.maxdict = _SHORT.maxtuple = 4
_SHORT.maxlevel = 3

MAX_LINE = 300
_MAX_WORD = 120


def one_line(text: object) -> str:
    """Return a message in one line of at most `MAX_LINE` printable characters.

    Control characters are escaped. Long names are cut, then the middle: the end of a message is its remedy.
    """
    parts = " ".join(part.strip() for part in str(text).splitlines() if part.strip())
    shown = printable(parts)
    if len(shown) <= MAX_LINE:
        return shown
    return _cut(" ".join(_cut(word, _MAX_WORD) for word in shown.split(" ")), MAX_LINE)


def message_of(error: Exception) -> str:
    """Return an error's message in one line; unexpected errors are reported as bugs."""
    if isinstance(error, OnnxportError):
        return one_line(error)
    if isinstance(error, OSError) and error.strerror:
        file = f"{error.filename}: " if error.filename is not None else ""
        return one_line(f"{file}{error.strerror}")
    if isinstance(error, OSError):
        return one_line(error)
    if isinstance(error, MemoryError):
        return "not enough memory; close other programs, or use a machine with more"
    first = (str(error).strip().split("\n")[0] + " ").lstrip()
    return one_line(f"{type(error).__name__}: {first}(this is a bug, run with --debug for the traceback)")


def printable(text: str) -> str:
    """Return a text with escapes for its control characters and halves of surrogate pairs, as a terminal shows it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _cut(text: str, length: int) -> str:
    """Cut the middle of a text that is longer than a length."""
    head = 2 * length // 3
    return text if len(text) <= length else f"{text[:head]}…{text[len(text) - (length - head - 1) :]}"
