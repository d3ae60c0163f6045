"""Translate exceptions of third-party code: models, users' files and checkpoints' code raise exceptions of any type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def translating(translate: Callable[[Exception], Exception | None]) -> Iterator[None]:
    """Run third-party code in a block, and raise an error of this package from its exception.

    Args:
        translate: returns the error to raise, or None to re-raise the exception unchanged.
    """
    try:
        yield
    except Exception as error:  # third-party code raises exceptions of any type
        translated = translate(error)
        if translated is None:
            raise
        raise translated from error
