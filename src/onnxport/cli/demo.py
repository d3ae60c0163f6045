"""`onnxport demo DIR`: try an exported model in a browser on this machine."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path

from onnxport.cli._outcome import DONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("directory", metavar="DIR", help="exported directory in the layout of transformers.js")
    text = "folder whose node_modules has @huggingface/transformers (default: the current folder or one of its parents)"
    parser.add_argument("--modules", metavar="FOLDER", help=text)
    parser.add_argument("--port", type=int, default=0, metavar="N", help="port on 127.0.0.1 (default: a free one)")


def run(arguments: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C."""
    from onnxport.cli._rendering import print_line
    from onnxport.demo.server import DemoServer

    modules = Path(arguments.modules) if arguments.modules else None
    with DemoServer(Path(arguments.directory), modules, arguments.port) as server:
        print_line(f"{server.url} (Ctrl-C ends)")
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    return DONE
