"""Limit the time, memory and text of chat templates, which are programs of the directory: loops can be nested in them.

The limits are checked at each line that runs in the block, and before operators that multiply.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from onnxport.errors import UnsupportedError
from onnxport.patching.patch import Replacement
from onnxport.patching.scope import patching

MAX_SECONDS = 5.0
MAX_BYTES = 256 << 20
_MAX_PRODUCT = 1_000_000
"""Largest number, or length of a text, that an operator may return."""
_OPERATORS = frozenset({"*", "**"})
_CHECK_MEMORY_AFTER = 0.01
_STATUS = Path("/proc/self/statm")
_PAGE = 4096


@contextmanager
def limited_rendering() -> Iterator[None]:
    """Compile and render a chat template in a block, with any sandboxed environment of jinja2.

    Raises:
        UnsupportedError: the template takes more than `MAX_SECONDS` or `MAX_BYTES`, or multiplies large values.
    """
    from jinja2.sandbox import SandboxedEnvironment

    before = sys.gettrace()
    operators = Replacement(SandboxedEnvironment, "intercepted_binops", _OPERATORS)
    with patching(operators, Replacement(SandboxedEnvironment, "call_binop", _limited_operator)):
        sys.settrace(_Limits().trace)
        try:
            yield
        finally:
            sys.settrace(before)


class _Limits:
    """Check the limits at each line that is traced."""

    def __init__(self) -> None:
        self._deadline = time.monotonic() + MAX_SECONDS
        self._check_memory_at = 0.0
        self._resident = _resident_bytes()

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:
        now = time.monotonic()
        if now > self._deadline:
            raise _exceeded(f"takes more than {MAX_SECONDS:g} s")
        if now > self._check_memory_at:
            self._check_memory_at = now + _CHECK_MEMORY_AFTER
            if _resident_bytes() - self._resident > MAX_BYTES:
                raise _exceeded(f"takes more than {MAX_BYTES >> 20} MiB of memory")
        return self.trace


def _resident_bytes() -> int:
    """Return the memory that the process uses; 0 if the system doesn't tell it."""
    try:
        return int(_STATUS.read_text(encoding="ascii").split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0


def _limited_operator(_: object, context: object, operator: str, left: Any, right: Any) -> Any:
    """Multiply, unless the result is large; `jinja2.sandbox.SandboxedEnvironment.call_binop` for `_OPERATORS`."""
    sizes = [len(value) if isinstance(value, str | list | tuple) else abs(value) for value in (left, right)]
    bits = sizes[0].bit_length() * sizes[1] if operator == "**" and all(isinstance(n, int) for n in sizes) else 0
    if bits > _MAX_PRODUCT.bit_length() or (operator == "*" and sizes[0] * sizes[1] > _MAX_PRODUCT):
        raise _exceeded(f"has a result of {operator} beyond {_MAX_PRODUCT:,}")
    return left * right if operator == "*" else left**right


def _exceeded(problem: str) -> UnsupportedError:
    return UnsupportedError(f"the chat template {problem}; use onnxport run --prompt, or a directory that you trust")
