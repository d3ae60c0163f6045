"""What code that isn't ours raises: models, files of users and code of checkpoints raise exceptions of any type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def translating(translate: Callable[[Exception], Exception | None]) -> Iterator[None]:
    """Run foreign code in a block, and raise an error of this package instead of its exception, which is the cause.

    Args:
        translate: returns the error to raise instead, None where the exception is raised as it is.
    """
    try:
        yield
    except Exception as error:  # foreign code raises whatever it likes
        translated = translate(error)
        if translated is None:
            raise
        raise translated from error
