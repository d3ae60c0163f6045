"""`onnxport inspect DIR`."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from onnxport.cli._outcome import DONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("path", metavar="DIR", help="directory with ONNX graphs, or one graph")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Inspect the graphs, and print their inputs, outputs and operators."""
    from onnxport.bundles.inspection import inspect
    from onnxport.cli._rendering import print_inspection, print_json

    inspection = inspect(arguments.path)
    if arguments.json:
        print_json(asdict(inspection))
    else:
        print_inspection(inspection)
    return DONE
