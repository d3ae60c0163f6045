"""The tasks that the conformance matrix validated for this version: `coverage.json`; `docs/coverage.md` lists them.

`python -m conformance matrix` and `coverage` write it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("coverage.json")


@dataclass(frozen=True)
class ValidatedType:
    """Hold the results for one model type, from a tiny checkpoint with random weights.

    Attributes:
        tasks: tasks that export and validate, with and without past.
        failed: other tasks of the model type's Auto classes, to the reason for the failure.
        fixed_axes: those of `tasks` with inputs that have static axes, to a list of `input: axis = size`.
    """

    tasks: tuple[str, ...]
    failed: dict[str, str] = field(default_factory=dict)
    fixed_axes: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class ValidatedTasks:
    """Hold the results of a run of the matrix.

    Attributes:
        date: date of the run, in ISO 8601.
        versions: package to version.
        types: `model_type` of `config.json` to its results.
    """

    date: str
    versions: dict[str, str]
    types: dict[str, ValidatedType]


@cache
def validated_tasks() -> ValidatedTasks:
    """Return the results of the matrix."""
    records: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
    types = {
        name: ValidatedType(tuple(entry["tasks"]), entry.get("failed", {}), entry.get("fixed_axes", {}))
        for name, entry in records["types"].items()
    }
    return ValidatedTasks(records["date"], records["versions"], types)
