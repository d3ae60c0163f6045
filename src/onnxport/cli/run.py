"""`onnxport run DIR`: a quick try of an exported directory."""

from __future__ import annotations

import argparse

from onnxport.cli._outcome import DONE
from onnxport.cli._sampling import add_sampling, sampling_from

_TOKENS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add = parser.add_argument
    add("directory", metavar="DIR", help="what onnxport export wrote")
    add("--text", "--prompt", action="append", default=[], help="a text; repeat it for several")
    add("--text-pair", action="append", default=[], metavar="TEXT", help="the second text of each --text")
    add("--question", metavar="TEXT", help="a question about the context (question answering)")
    add("--context", dest="text", action="append", metavar="TEXT", help="the text that answers: the same as --text")
    add("--image", metavar="FILE", help="a picture")
    add("--audio", metavar="FILE.wav", help="a sound, integer samples of any rate")
    add("--input-ids", type=_numbers, default=(), metavar="N,N,...", help="token numbers instead of a text")
    add_sampling(parser)
    add("--stream", action="store_true", help="print a text while it is made")
    add("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the graph, and print the answer."""
    from onnxport.cli._feeds import Given
    from onnxport.cli._generation import Wanted
    from onnxport.cli._quick_run import quick_run
    from onnxport.cli._rendering import print_json, print_line

    given = Given(
        texts=tuple(arguments.text),
        pairs=tuple(arguments.text_pair),
        question=arguments.question,
        image=arguments.image,
        audio=arguments.audio,
        input_ids=arguments.input_ids,
    )
    settings = sampling_from(arguments, max_new_tokens=_TOKENS)
    answer = quick_run(arguments.directory, given, Wanted(settings, arguments.stream and not arguments.json))
    if arguments.json:
        print_json(answer.values)
    elif answer.lines:
        print_line("\n".join(answer.lines))
    return DONE


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a list of numbers like 5,12,7") from None
