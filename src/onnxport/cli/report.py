"""`onnxport report DIR`: write a page of HTML that shows an exported directory."""

from __future__ import annotations

import argparse
from pathlib import Path

from onnxport.cli._outcome import DONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("directory", metavar="DIR", help="directory that onnxport export wrote")
    parser.add_argument("--output", metavar="FILE", help="the page (default: report.html in the current directory)")
    parser.add_argument("--bench", metavar="FILE", help="what onnxport bench --json printed for DIR")


def run(arguments: argparse.Namespace) -> int:
    """Write the page, and print its path."""
    from onnxport.cli._rendering import print_line
    from onnxport.reports.page import FILE_NAME, write_report

    target = Path(arguments.output or FILE_NAME)
    write_report(Path(arguments.directory), target, Path(arguments.bench) if arguments.bench else None)
    print_line(str(target))
    return DONE
