"""List the exceptions that Transformers and torch raise for a configuration or file that a class doesn't accept."""

from __future__ import annotations

import struct

_RAISED = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip

UNPICKLING_FAILURES: tuple[type[Exception], ...] = (*_RAISED, EOFError, MemoryError, struct.error)
"""Exceptions that `torch.load` raises for truncated or damaged files, besides `pickle.UnpicklingError`."""


def construction_failures() -> tuple[type[Exception], ...]:
    """Return the exceptions that constructing a Transformers configuration, model or preprocessor may raise.

    Since Transformers 5.0, huggingface_hub's strict dataclasses validate configurations; their errors derive directly
    from `Exception`.
    """
    from huggingface_hub.errors import StrictDataclassError

    return (*_RAISED, StrictDataclassError)
