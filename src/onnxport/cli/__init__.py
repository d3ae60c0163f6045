"""The `onnxport` command: parse, make one library call, print its result, map errors to exit codes.

0 done, 1 failed, 2 misuse, 130 interrupted. Data goes to stdout, everything else to stderr.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from onnxport import __version__
from onnxport._garbage import fewer_collections, without_exit_collections
from onnxport.cli._outcome import exit_code, interrupted

__all__ = ["main", "process"]

VERBS = {
    "export": "export a checkpoint to a directory with ONNX graphs, validated against the original",
    "export-all": "export several checkpoints, each in a process of its own",
    "layout": "arrange an exported directory for another client",
    "adapter": "write a LoRA adapter as a file for an exported directory that keeps adapters apart",
    "describe": "show the inputs and outputs of an export, without weights",
    "validate": "compare an exported directory with the original again",
    "verify": "check an exported directory from elsewhere, without torch and without the original",
    "inspect": "show the inputs, outputs and operators of ONNX graphs",
    "report": "write a page of HTML that shows an exported directory",
    "demo": "try an exported model in a browser on this machine, through transformers.js",
    "list": "list model types and their validated tasks",
    "cache": "list or clear the cache of graphs",
    "run": "run an exported directory on text, an image or audio",
    "chat": "chat with an exported model",
    "bench": "measure throughput, latency and memory of an exported model",
}
"""Verb to its help text; each is a module of this package, with `_` for `-`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: arguments without the program's name; defaults to those of the process.

    Returns:
        The exit code.
    """
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    except KeyboardInterrupt:
        return interrupted()
    return exit_code(lambda: _run(arguments), debug=arguments.debug)


def process() -> int:
    """Run the command as the process's main function; return the exit code."""
    return without_exit_collections(main)


def _run(arguments: argparse.Namespace) -> int:
    with fewer_collections():
        code: int = _module(arguments.verb).run(arguments)
    return code


def _module(verb: str) -> ModuleType:
    return import_module(f"onnxport.cli.{verb.replace('-', '_')}")


def _parser() -> argparse.ArgumentParser:
    debug = "show warnings and logs of other packages, and the traceback of an error"
    parser = argparse.ArgumentParser(
        prog="onnxport", description="Export Transformers checkpoints to validated ONNX directories."
    )
    parser.add_argument("--version", action="version", version=f"onnxport {__version__}")
    parser.add_argument("--debug", action="store_true", help=debug)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, text in VERBS.items():
        verb = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        _module(name).add_arguments(verb)
        verb.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=debug)
    return parser
