"""`onnxport run DIR`: run an exported directory on one input."""

from __future__ import annotations

import argparse
from pathlib import Path

from onnxport.cli._outcome import DONE
from onnxport.cli._sampling import add_sampling, sampling_from

_DEFAULT_MAX_NEW_TOKENS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add = parser.add_argument
    add("directory", metavar="DIR", help="directory that onnxport export wrote")
    add("--text", "--prompt", action="append", default=[], help="input text or prompt; repeat it for several")
    add("--text-pair", action="append", default=[], metavar="TEXT", help="second sequence of each --text")
    add("--question", metavar="TEXT", help="question about the context (question answering)")
    add("--context", dest="text", action="append", metavar="TEXT", help="context of the question: the same as --text")
    add("--image", metavar="FILE", help="input image")
    add("--audio", metavar="FILE", help="input audio: WAV, FLAC, Ogg or MP3, of any sampling rate")
    add("--input-ids", type=_token_ids, default=(), metavar="ID,ID,...", help="token ids instead of text")
    add("--adapter", type=Path, metavar="FILE", help="adapter to run with, for an export with --adapter-inputs")
    add_sampling(parser)
    add("--stream", action="store_true", help="print generated text token by token")
    add("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the model, and print the result."""
    from onnxport.cli._generation import generate
    from onnxport.cli._rendering import print_json, print_line
    from onnxport.cli._request import RunRequest
    from onnxport.cli._tasks import run_task
    from onnxport.runtime.directory import Directory
    from onnxport.runtime.light import LightModel
    from onnxport.runtime.settings import RunSettings

    request = RunRequest(
        texts=tuple(arguments.text),
        text_pairs=tuple(arguments.text_pair),
        question=arguments.question,
        image=arguments.image,
        audio=arguments.audio,
        input_ids=arguments.input_ids,
    )
    directory = Directory(arguments.directory, RunSettings(adapter=arguments.adapter))
    if LightModel(directory).can_generate:
        settings = sampling_from(arguments, max_new_tokens=_DEFAULT_MAX_NEW_TOKENS)
        result = generate(directory, request, settings, stream=arguments.stream and not arguments.json)
    else:
        result = run_task(directory, request)
    if arguments.json:
        print_json(result.values)
    elif result.lines:
        print_line("\n".join(result.lines))
    return DONE


def _token_ids(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a list of token ids like 5,12,7") from None
