"""`onnxport chat DIR`: a conversation with an exported model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from onnxport.cli._outcome import DONE
from onnxport.cli._sampling import add_sampling, count, sampling_from

_TOKENS = 512
_HELP = "Ctrl-C stops an answer, Ctrl-D ends the conversation, /new begins another one."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("directory", metavar="DIR", help="what onnxport export wrote")
    parser.add_argument("--system", metavar="TEXT", help="what the model is told before the conversation")
    add_sampling(parser)
    parser.add_argument("--threads", type=count, metavar="N", help="threads of one operator")


def run(arguments: argparse.Namespace) -> int:
    """Talk until the input ends."""
    from onnxport.errors import UnsupportedError
    from onnxport.runtime.directory import Directory
    from onnxport.runtime.light import LightModel
    from onnxport.runtime.settings import RunSettings
    from onnxport.runtime.tokenizer import DirectoryTokenizer as Text

    directory = Directory(arguments.directory, RunSettings(threads=arguments.threads))
    model, text = LightModel(directory), Text(directory)
    if not model.can_generate or directory.has("encoder_model"):
        raise UnsupportedError(
            f"{directory.path} was exported for {directory.manifest.task}: it holds no conversations"
        )
    text.apply_chat_template(
        [{"role": "user", "content": ""}]
    )  # fails before the first question where there is no template
    directory.graph("model")
    settings = sampling_from(arguments, max_new_tokens=_TOKENS)
    begin = [{"role": "system", "content": arguments.system}] if arguments.system else []
    talk = list(begin)
    terminal = sys.stdin.isatty()
    if terminal:
        sys.stderr.write(f"{_HELP}\n")
    while (said := _read(terminal)) is not None:
        if said == "/new":
            talk = list(begin)
        elif said:
            talk.append({"role": "user", "content": said})
            answer = _answer(model, text, (talk, settings))
            talk.append({"role": "assistant", "content": answer})
    return DONE


def _read(terminal: bool) -> str | None:
    """Return what the user says next, None at the end of the input or on Ctrl-C."""
    try:
        return input("> " if terminal else "").strip()
    except (EOFError, KeyboardInterrupt):
        if terminal:
            sys.stderr.write("\n")
        return None


def _answer(model: Any, text: Any, said: tuple[list[dict[str, str]], dict[str, Any]]) -> str:
    """Print an answer while it is made, and return it, or as much as there was before Ctrl-C."""
    talk, settings = said
    whole = ""
    try:
        for piece in _pieces(model, text, talk, settings):
            whole += piece
            sys.stdout.write(piece)
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stderr.write(" [stopped]")
    sys.stdout.write("\n")
    sys.stdout.flush()
    return whole


def _pieces(model: Any, text: Any, talk: list[dict[str, str]], settings: dict[str, Any]) -> Iterator[str]:
    from onnxport.cli._generation import pieces

    inputs = text.encode([text.apply_chat_template(talk)], add_special_tokens=False)
    _, steps = model.stream(inputs, **settings)
    yield from pieces(text, steps)
