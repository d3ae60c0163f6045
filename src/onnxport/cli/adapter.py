"""`onnxport adapter ADAPTER DIR`."""

from __future__ import annotations

import argparse
from pathlib import Path

from onnxport.cli._outcome import DONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("adapter", metavar="ADAPTER", help="directory of a LoRA adapter that PEFT saved")
    parser.add_argument("directory", metavar="DIR", help="directory that onnxport export --adapter-inputs wrote")
    parser.add_argument("--output", metavar="FILE", help="file to write (default: in DIR, named like the adapter)")


def run(arguments: argparse.Namespace) -> int:
    """Write the adapter, and print the path of its file, or of that for each graph."""
    from onnxport.bundles.adapter_files import convert_adapter
    from onnxport.cli._rendering import print_line

    output = Path(arguments.output) if arguments.output else None
    files = convert_adapter(Path(arguments.adapter), Path(arguments.directory), output)
    print_line("\n".join(map(str, files)))
    return DONE
