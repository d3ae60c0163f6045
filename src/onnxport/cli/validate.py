"""`onnxport validate DIR`."""

from __future__ import annotations

import argparse
import json

from onnxport.cli._options import add_options, options_from

_OPTIONS = ("atol", "rtol", "device", "revision", "cache_dir", "token", "trust_remote_code", "validate")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("directory", help="what onnxport export wrote")
    parser.add_argument("--reference", help="checkpoint to compare with; the manifest's own without")
    add_options(parser, _OPTIONS)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")


def run(arguments: argparse.Namespace) -> int:
    """Validate, and print the report."""
    options = options_from(arguments)
    from onnxport.cli._progress import progress_bar
    from onnxport.cli._rendering import print_line, print_validation
    from onnxport.validation import validate

    with progress_bar(arguments.quiet) as progress:
        report = validate(arguments.directory, arguments.reference, options, progress=progress)
    if arguments.json:
        print_line(json.dumps(report.to_dict(), indent=2))
    elif not arguments.quiet:
        print_validation(report)
    return int(report.status == "failed")
