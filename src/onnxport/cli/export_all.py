"""`onnxport export-all LIST OUTPUT`: export several checkpoints, and print a line of JSON for each."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, fields
from pathlib import Path

from onnxport.cli._options import add_options, options_from
from onnxport.cli._outcome import DONE, FAILED
from onnxport.options import ExportOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    text = "text file with one directory, GGUF file or repository on the hub in each line; - for standard input"
    parser.add_argument("list", metavar="LIST", help=text)
    parser.add_argument("output", metavar="OUTPUT", help="directory of the exports, which are named after the models")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="number of processes at a time (default: 1)")
    parser.add_argument(
        "--ray", metavar="ADDRESS", help="export on a Ray cluster: auto, local or ray://HOST:PORT, instead of --jobs"
    )
    add_options(parser, {field.name for field in fields(ExportOptions)} - {"dry_run"})


def run(arguments: argparse.Namespace) -> int:
    """Export, and print the record of each checkpoint as it ends."""
    options = options_from(arguments)
    from onnxport._export_all import export_all
    from onnxport.cli._rendering import print_line

    failed = False
    for record in export_all(
        _models(arguments.list), arguments.output, options, jobs=arguments.jobs, ray=arguments.ray
    ):
        print_line(json.dumps(asdict(record)))
        sys.stdout.flush()
        failed = failed or record.status == "failed"
    return FAILED if failed else DONE


def _models(name: str) -> list[str]:
    """Return the lines of a file, without empty ones and comments."""
    text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]
