"""`onnxport list`: architectures and their tasks."""

from __future__ import annotations

import argparse
import difflib

from onnxport.cli._outcome import DONE
from onnxport.errors import UnsupportedError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--model-type", metavar="T", help="only this one, with the old and the new name of each task")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the model types of 4.37.2 with their tasks, under today's names and those of 4.37.2."""
    from onnxport.cli._rendering import print_json, print_line, print_table

    shown = _known(arguments.model_type)
    if arguments.json:
        print_json({name: {"tasks": tasks, "features": features} for name, (tasks, features) in shown.items()})
    elif arguments.model_type:
        [(name, (tasks, features))] = shown.items()
        print_table(name, ("task", "name in transformers.onnx 4.37.2"), zip(tasks, features, strict=True))
    else:
        print_table("", ("model type", "tasks"), ((name, ", ".join(tasks)) for name, (tasks, _) in shown.items()))
        print_line("Other model types are described from the model itself; their tasks are those of Transformers.")
    return DONE


def _known(model_type: str | None) -> dict[str, tuple[list[str], list[str]]]:
    """Return model types with their tasks and features; only the named one where one is named.

    Raises:
        UnsupportedError: no model type has this name.
    """
    from onnxport.architectures import MODEL_TYPES
    from onnxport.configs.tasks import canonical_task

    wanted = model_type.replace("_", "-").lower() if model_type is not None else None
    if wanted is not None and wanted not in MODEL_TYPES:
        near = difflib.get_close_matches(wanted, MODEL_TYPES, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise UnsupportedError(f"model type {model_type!r} isn't listed: {hint}onnxport list names all")
    return {
        name: ([canonical_task(feature).full_name for feature in known.features], list(known.features))
        for name, known in MODEL_TYPES.items()
        if wanted in (None, name)
    }
