"""`onnxport inspect DIR`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("path", help="directory with ONNX graphs, or one graph")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print what the graphs hold."""
    from onnxport.bundles.inspection import inspect
    from onnxport.cli._rendering import print_graph, print_line

    found = inspect(arguments.path)
    if arguments.json:
        print_line(json.dumps(asdict(found), indent=2))
        return 0
    if found.task:
        print_line(f"{found.model} for {found.task}, validation {found.validation}")
    for graph in found.graphs:
        print_graph(graph)
    return 0
