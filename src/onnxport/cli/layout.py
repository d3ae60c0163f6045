"""`onnxport layout DIR OUTPUT --to NAME`."""

from __future__ import annotations

import argparse

from onnxport.cli._options import names_from
from onnxport.cli._outcome import DONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("directory", metavar="DIR", help="directory that onnxport export wrote in the default layout")
    parser.add_argument("output", metavar="OUTPUT", help="directory to create")
    parser.add_argument("--to", metavar="NAME", required=True, help="layout: transformers.js, genai or triton")
    text = "precisions of the graphs to take, one or several (default: all)"
    parser.add_argument("--dtype", metavar="NAME,…", type=names_from, help=text)
    parser.add_argument("--force", action="store_true", help="replace an output directory that isn't empty")
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Arrange the directory, and print the files of the new one."""
    from onnxport.cli._rendering import print_line
    from onnxport.layouts._rearrange import rearrange

    manifest = rearrange(
        arguments.directory, arguments.to, arguments.output, dtypes=arguments.dtype, force=arguments.force
    )
    files = [name for item in manifest.components for name in (item.file, *item.external_data)]
    print_line(manifest.to_json().rstrip() if arguments.json else "\n".join(sorted([*files, *manifest.files])))
    return DONE
