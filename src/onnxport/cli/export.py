"""`onnxport export MODEL OUTPUT`."""

from __future__ import annotations

import argparse

from onnxport.cli._options import add_options, options_from
from onnxport.cli._outcome import DONE, FAILED, print_error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("model", metavar="MODEL", help="local directory, GGUF file, or repository on the hub")
    parser.add_argument("output", metavar="OUTPUT", help="directory to create")
    add_options(parser)
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress and no report, only errors (and --json)")


def run(arguments: argparse.Namespace) -> int:
    """Export, and print the report."""
    options = options_from(arguments)
    from onnxport._export import export
    from onnxport.cli._progress import progress_bar
    from onnxport.cli._rendering import print_export, print_line

    with progress_bar(arguments.quiet) as progress:
        result = export(arguments.model, arguments.output, options, progress=progress)
    if arguments.json:
        print_line(result.manifest.to_json().rstrip())
    elif not arguments.quiet:
        print_export(result)
    if result.manifest.validation["status"] == "failed":
        print_error(f"the graph differs from the original; {result.directory} is kept because of --keep-invalid")
        return FAILED
    return DONE
