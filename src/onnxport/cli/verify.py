"""`onnxport verify DIR`: check a directory from elsewhere, without torch and without its original."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from onnxport.cli._outcome import DONE, FAILED, print_error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("directory", metavar="DIR", help="directory that onnxport export wrote")
    text = "SHA-256 that onnxport.json must have, which has the digests of all other files (default: any)"
    parser.add_argument("--sha256", metavar="DIGEST", help=text)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--quiet", action="store_true", help="print only errors (and --json)")


def run(arguments: argparse.Namespace) -> int:
    """Verify, and print what was compared."""
    from onnxport.cli._rendering import print_json, print_line
    from onnxport.errors import printable
    from onnxport.runtime.verify import verify

    result = verify(arguments.directory, arguments.sha256)
    if arguments.json:
        print_json(asdict(result))
    elif not arguments.quiet:
        print_line(f"onnxport.json: SHA-256 {result.manifest_sha256}")
        if not result.problems:
            print_line(f"{result.files} files have the digests of the manifest, and the graphs are well-formed")
        for name in result.without_digest:
            print_line(printable(f"without a digest: {name}"))
        for dtype, reason in result.not_run.items():
            print_line(printable(f"loaded, but not run: {dtype}: {reason}"))
    for problem in result.problems:
        print_error(f"{arguments.directory}: {problem}")
    return FAILED if result.problems else DONE
