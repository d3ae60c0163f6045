"""Which cases of a table `make test` runs; `make conformance` runs the others."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def sampled(cases: Iterable[str], every_time: Collection[str]) -> list[Any]:
    """Return the cases as parameters, those that aren't for every run marked as wide.

    Args:
        cases: all cases.
        every_time: those of them that show something the others don't.

    Raises:
        ValueError: one of these isn't a case.
    """
    names = list(cases)
    if unknown := set(every_time) - set(names):
        raise ValueError(f"no cases: {', '.join(sorted(unknown))}")
    return [name if name in every_time else pytest.param(name, marks=pytest.mark.wide) for name in names]
