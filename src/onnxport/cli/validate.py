"""`onnxport validate DIR`."""

from __future__ import annotations

import argparse

from onnxport.cli._options import add_options, options_from
from onnxport.cli._outcome import DONE, FAILED, print_error
from onnxport.errors import OptionError

_OPTIONS = (
    "atol", "rtol", "device", "framework", "adapter", "revision", "cache_dir", "token", "trust_remote_code", "validate",
    "memory", "description",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("directory", metavar="DIR", help="directory that onnxport export wrote")
    parser.add_argument(
        "--reference",
        metavar="MODEL",
        help="checkpoint to compare with (default: the one in the manifest, if it is local)",
    )
    add_options(parser, _OPTIONS)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress and no report, only errors (and --json)")


def run(arguments: argparse.Namespace) -> int:
    """Validate, and print the report."""
    options = options_from(arguments)
    if options.validate == "none":
        raise OptionError("--validate none leaves nothing to do; choose full or quick")
    from onnxport.cli._progress import progress_bar
    from onnxport.cli._rendering import print_json, print_validation
    from onnxport.validation import validate

    with progress_bar(arguments.quiet) as progress:
        progress("load the original", None)
        report = validate(arguments.directory, arguments.reference, options, progress=progress)
    if arguments.json:
        print_json(report.to_dict())
    elif not arguments.quiet:
        print_validation(report)
    if report.status == "failed":
        more = f" (and {len(report.failures) - 1} more)" if len(report.failures) > 1 else ""
        print_error(f"{arguments.directory} differs from the original: {report.failures[0]}{more}")
        return FAILED
    return DONE
