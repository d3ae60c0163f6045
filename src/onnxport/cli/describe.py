"""`onnxport describe MODEL`: the inputs and outputs of an export, without exporting."""

from __future__ import annotations

import argparse

from onnxport.cli._options import add_options, options_from
from onnxport.cli._outcome import DONE

_OPTIONS = (
    *("task", "past", "last_logits", "split_encoders", "route", "inputs_embeds", "image_processing", "outputs"),
    *("fix", "token_dtype", "io_dtype", "opset", "atol", "rtol", "dtype", "framework"),
    *("revision", "cache_dir", "token", "trust_remote_code"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("model", metavar="MODEL", help="local directory, GGUF file, or repository on the hub")
    add_options(parser, _OPTIONS)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--python", action="store_true", help="print the description as a Python module, to be edited")


def run(arguments: argparse.Namespace) -> int:
    """Describe, and print the description."""
    options = options_from(arguments)
    from onnxport._describe import describe_checkpoint
    from onnxport.cli._rendering import print_description, print_json, print_line
    from onnxport.description.source_code import python_module

    description = describe_checkpoint(arguments.model, options)
    if arguments.json:
        print_json(description.to_dict())
    elif arguments.python:
        print_line(python_module(description).rstrip())
    else:
        print_description(description)
    return DONE
