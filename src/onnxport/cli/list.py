"""`onnxport list`: architectures and their tasks."""

from __future__ import annotations

import argparse
import difflib
import json

from onnxport.errors import UnsupportedError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("--model-type", help="only this one")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the tables of 4.37.2's features."""
    from onnxport.architectures import MODEL_TYPES
    from onnxport.cli._rendering import print_line, print_table
    from onnxport.configs.tasks import canonical_task

    table = {
        name: [canonical_task(feature).full_name for feature in known.features] for name, known in MODEL_TYPES.items()
    }
    wanted = (arguments.model_type or "").replace("_", "-")
    if wanted and wanted not in table:
        near = difflib.get_close_matches(wanted, table, n=3)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise UnsupportedError(f"model type {arguments.model_type!r} isn't listed: {hint}onnxport list names all")
    shown = {name: tasks for name, tasks in table.items() if wanted in ("", name)}
    if arguments.json:
        print_line(json.dumps(shown, indent=2))
    else:
        print_table(
            "architectures", ("model type", "tasks"), ((name, ", ".join(tasks)) for name, tasks in shown.items())
        )
    return 0
