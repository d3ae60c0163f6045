"""`onnxport list`: model types and their tasks, as the conformance matrix proved them."""

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
    parser.add_argument("--model-type", metavar="T", help="only this one, with what is known of each task")
    parser.add_argument("--task", metavar="T", help="only model types that this task was proved for")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print model types with the tasks that export and validate; of one, why the others don't, too."""
    from onnxport.cli._rendering import print_json, print_line, print_table
    from onnxport.description.coverage import validated_tasks

    found = validated_tasks()
    shown = _chosen(found.types, arguments.model_type, arguments.task)
    if arguments.json:
        print_json({name: asdict(known) for name, known in shown.items()})
    elif arguments.model_type:
        [(name, known)] = shown.items()
        print_table(name, ("task", "name in transformers.onnx 4.37.2", "proved"), _rows(name, known))
    else:
        rows = ((name, ", ".join(known.tasks)) for name, known in shown.items() if known.tasks)
        print_table("", ("model type", "tasks that export and validate"), rows)
    if not arguments.json:
        versions = f"transformers {found.versions['transformers']}, on tiny checkpoints with random weights"
        print_line(f"Proved {found.date} with {versions}; docs/coverage.md has every pair and every failure.")
    return DONE


def _chosen(types: dict[str, ValidatedType], model_type: str | None, task: str | None) -> dict[str, ValidatedType]:
    """Return the model types to show.

    Raises:
        UnsupportedError: no model type has this name, or no task has.
    """
    from onnxport.description.tasks import canonical_task

    name = task and canonical_task(task).full_name
    spelled = {_spelling(known): known for known in types}
    wanted = model_type if model_type is None else spelled.get(_spelling(model_type))
    if model_type is not None and wanted is None:
        near = difflib.get_close_matches(_spelling(model_type), spelled, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(spelled[known] for known in near)}? " if near else ""
        raise UnsupportedError(f"model type {model_type!r} isn't listed: {hint}onnxport list names all")
    return {
        known: entry
        for known, entry in types.items()
        if wanted in (None, known) and (name is None or name in entry.tasks or known == wanted)
    }


def _spelling(model_type: str) -> str:
    """Return a name that is the same for hyphens and underscores, and for capitals."""
    return model_type.replace("_", "-").lower()


def _rows(model_type: str, known: ValidatedType) -> list[tuple[str, str, str]]:
    from onnxport.configs.model_types import MODEL_TYPES
    from onnxport.description.tasks import canonical_task

    old = MODEL_TYPES.get(model_type.replace("_", "-"))
    features = {canonical_task(feature).full_name: feature for feature in (old.features if old else ())}
    fixed = {task: f"yes, with {', '.join(axes)}" for task, axes in known.fixed_axes.items()}
    rows = [(task, features.get(task, ""), fixed.get(task, "yes")) for task in known.tasks]
    return rows + [(task, features.get(task, ""), f"no: {reason}") for task, reason in known.failed.items()]
