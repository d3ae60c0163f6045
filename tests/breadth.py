"""Select the cases of a table that `make test` runs; `make conformance` runs the others."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def sampled(cases: Iterable[str], every_time: Collection[str]) -> list[Any]:
    """Return the cases as parameters; those that only `make conformance` runs are marked as wide.

    Args:
        cases: all cases.
        every_time: the cases that exercise a distinct mechanism.

    Raises:
        ValueError: `every_time` has a name that isn't a case.
    """
    names = list(cases)
    if unknown := set(every_time) - set(names):
        raise ValueError(f"no cases: {', '.join(sorted(unknown))}")
    return [name if name in every_time else pytest.param(name, marks=pytest.mark.wide) for name in names]
