"""The `onnxport` command: parse, make one library call, print what came back, map errors to exit codes.

0 done, 1 failed, 2 misuse, 130 interrupted. Data goes to stdout, everything else to stderr.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module

from onnxport import __version__
from onnxport.errors import OnnxportError, OptionError

VERBS = {
    "export": "export a checkpoint to a directory with its ONNX graphs, proved against the original",
    "validate": "repeat the proof of an exported directory",
    "inspect": "show what a directory with ONNX graphs holds",
    "list": "list architectures and tasks",
    "run": "try an exported directory on a text, a picture or a sound",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: arguments without the program's name; those of the process without.

    Returns:
        The exit code.
    """
    try:
        arguments = _parser().parse_args(argv)
    except OptionError as error:
        return _fail(error, 2)
    except SystemExit as error:
        return int(error.code or 0)
    return _guarded(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="onnxport", description="From a Transformers checkpoint to a proved ONNX directory."
    )
    parser.add_argument("--version", action="version", version=f"onnxport {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, text in VERBS.items():
        verb = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        import_module(f"onnxport.cli.{name}").add_arguments(verb)
        verb.add_argument("--debug", action="store_true", help="show warnings, and the traceback of an error")
    return parser


def _guarded(arguments: argparse.Namespace) -> int:
    if not arguments.debug:
        _silence()
    try:
        code: int = import_module(f"onnxport.cli.{arguments.verb}").run(arguments)
        return code
    except KeyboardInterrupt:
        print("onnxport: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if arguments.debug:
            traceback.print_exc()
        if isinstance(error, OptionError):
            return _fail(error, 2)
        if isinstance(error, (OnnxportError, OSError)):
            return _fail(error, 1)
        return _fail(f"{type(error).__name__}: {error} (this is a bug: run with --debug for the traceback)", 1)


def _fail(error: object, code: int) -> int:
    print(f"onnxport: error: {error}", file=sys.stderr)
    return code


def _silence() -> None:
    """Keep other packages' warnings off the terminal."""
    warnings.simplefilter("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger().setLevel(logging.ERROR)
