"""`onnxport run DIR`: a quick try of an exported directory."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("directory", help="what onnxport export wrote")
    parser.add_argument("--text", action="append", default=[], help="a text; repeat it for several")
    parser.add_argument("--question", help="a question about the text (question answering)")
    parser.add_argument("--image", help="a picture file")
    parser.add_argument("--audio", help="a .wav file, 16-bit samples")
    parser.add_argument("--input-ids", help="token numbers instead of a text, as 5,12,7")
    parser.add_argument("--max-new-tokens", type=int, default=20, help="tokens to generate (text generation)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the graph, and print the answer."""
    import json

    from onnxport.cli._quick_run import quick_run
    from onnxport.cli._rendering import print_line

    answer = quick_run(arguments)
    print_line(json.dumps(answer.values, indent=2) if arguments.json else "\n".join(answer.lines))
    return 0
