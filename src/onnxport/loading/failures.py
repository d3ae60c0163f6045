"""List the exceptions that Transformers and torch raise for a configuration or a file that doesn't suit a class."""

from __future__ import annotations

import struct

_RAISED = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip

UNPICKLING_FAILURES: tuple[type[Exception], ...] = (*_RAISED, EOFError, MemoryError, struct.error)
"""What `torch.load` raises for truncated or damaged files, beside `pickle.UnpicklingError`."""


def construction_failures() -> tuple[type[Exception], ...]:
    """Return what constructing a configuration, a model or a preprocessor of Transformers may raise.

    Since Transformers 5.0 configurations are validated by huggingface_hub's strict dataclasses, whose errors derive
    from `Exception` only.
    """
    from huggingface_hub.errors import StrictDataclassError

    return (*_RAISED, StrictDataclassError)
