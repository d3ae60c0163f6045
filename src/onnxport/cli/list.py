"""`onnxport list`: model types and their tasks, as validated by the conformance matrix."""

from __future__ import annotations

import argparse
import difflib
from dataclasses import asdict
from typing import TYPE_CHECKING

from onnxport.cli._outcome import DONE
from onnxport.errors import UnsupportedError

if TYPE_CHECKING:
    from onnxport.description.coverage import ValidatedType


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--model-type", metavar="T", help="show one model type, with the result of each task")
    parser.add_argument("--task", metavar="T", help="show the model types that were validated for one task")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print model types with their validated tasks; for one model type, also the reason of each failure."""
    from onnxport.cli._rendering import print_json, print_line, print_table
    from onnxport.description.coverage import validated_tasks

    coverage = validated_tasks()
    selected = _select(coverage.types, arguments.model_type, arguments.task)
    if arguments.json:
        print_json({name: asdict(entry) for name, entry in selected.items()})
    elif arguments.model_type:
        [(name, entry)] = selected.items()
        print_table(name, ("task", "name in transformers.onnx 4.37.2", "validated"), _rows(name, entry))
    else:
        rows = ((name, ", ".join(entry.tasks)) for name, entry in selected.items() if entry.tasks)
        print_table("", ("model type", "tasks that export and validate"), rows)
    if not arguments.json:
        versions = f"transformers {coverage.versions['transformers']}, on tiny checkpoints with random weights"
        print_line(f"Validated {coverage.date} with {versions}; docs/coverage.md has every pair and every failure.")
    return DONE


def _select(types: dict[str, ValidatedType], model_type: str | None, task: str | None) -> dict[str, ValidatedType]:
    """Select the model types to show.

    Raises:
        UnsupportedError: the model type or the task is unknown.
    """
    from onnxport.description.tasks import canonical_task

    task_name = task and canonical_task(task).full_name
    normalized = {_normalize(name): name for name in types}
    selected = None if model_type is None else normalized.get(_normalize(model_type))
    if model_type is not None and selected is None:
        similar = difflib.get_close_matches(_normalize(model_type), normalized, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(normalized[name] for name in similar)}? " if similar else ""
        raise UnsupportedError(f"model type {model_type!r} isn't listed: {hint}see all with onnxport list")
    return {
        name: entry
        for name, entry in types.items()
        if selected in (None, name) and (task_name is None or task_name in entry.tasks or name == selected)
    }


def _normalize(model_type: str) -> str:
    """Return a model type in lower case, with hyphens."""
    return model_type.replace("_", "-").lower()


def _rows(model_type: str, entry: ValidatedType) -> list[tuple[str, str, str]]:
    from onnxport.configs.model_types import MODEL_TYPES
    from onnxport.description.tasks import canonical_task

    old = MODEL_TYPES.get(model_type.replace("_", "-"))
    features = {canonical_task(feature).full_name: feature for feature in (old.features if old else ())}
    fixed = {task: f"yes, with {', '.join(axes)}" for task, axes in entry.fixed_axes.items()}
    rows = [(task, features.get(task, ""), fixed.get(task, "yes")) for task in entry.tasks]
    return rows + [(task, features.get(task, ""), f"no: {reason}") for task, reason in entry.failed.items()]
