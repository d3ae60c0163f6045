"""What the conformance matrix proved when this version was made: `proved.json`, which `docs/coverage.md` tells in full.

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
    """Tell what was proved of one model type, on a tiny checkpoint with random weights.

    Attributes:
        tasks: tasks that export and validate, with and without past.
        failed: each other task that the model type's Auto classes reach, and why it failed.
        fixed_axes: each of `tasks` some of whose inputs' axes aren't dynamic to `input: axis = size`.
    """

    tasks: tuple[str, ...]
    failed: dict[str, str] = field(default_factory=dict)
    fixed_axes: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class ValidatedTasks:
    """Tell what was proved, when, and with which versions.

    Attributes:
        date: day of the run, as in ISO 8601.
        versions: package to version.
        types: model types, as in `config.json`.
    """

    date: str
    versions: dict[str, str]
    types: dict[str, ValidatedType]


@cache
def validated_tasks() -> ValidatedTasks:
    """Return what the matrix proved."""
    found: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
    types = {
        name: ValidatedType(tuple(entry["tasks"]), entry.get("failed", {}), entry.get("fixed_axes", {}))
        for name, entry in found["types"].items()
    }
    return ValidatedTasks(found["date"], found["versions"], types)
