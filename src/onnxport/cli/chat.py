"""`onnxport chat DIR`: a conversation with an exported model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxport.cli._outcome import DONE
from onnxport.cli._sampling import add_sampling, positive_int, sampling_from

if TYPE_CHECKING:
    from onnxport.runtime.light import LightModel
    from onnxport.runtime.tokenizer import DirectoryTokenizer, Message

_DEFAULT_MAX_NEW_TOKENS = 512
_HELP = "Ctrl-C stops an answer, Ctrl-D ends the conversation, /new starts another one."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("directory", metavar="DIR", help="directory that onnxport export wrote")
    parser.add_argument("--system", metavar="TEXT", help="system message")
    add_sampling(parser)
    parser.add_argument(
        "--adapter", type=Path, metavar="FILE", help="adapter to run with, for an export with --adapter-inputs"
    )
    parser.add_argument("--threads", type=positive_int, metavar="N", help="intra-op threads of ONNX Runtime")


def run(arguments: argparse.Namespace) -> int:
    """Read messages and print answers until the input ends."""
    from onnxport.errors import UnsupportedError
    from onnxport.runtime.directory import Directory
    from onnxport.runtime.light import LightModel
    from onnxport.runtime.settings import RunSettings
    from onnxport.runtime.tokenizer import DirectoryTokenizer

    directory = Directory(arguments.directory, RunSettings(threads=arguments.threads, adapter=arguments.adapter))
    model, tokenizer = LightModel(directory), DirectoryTokenizer(directory)
    if not model.can_generate or not directory.has("model"):
        raise UnsupportedError(
            f"{directory.path} was exported for {directory.manifest.task}: onnxport chat needs a text decoder"
        )
    tokenizer.apply_chat_template([{"role": "user", "content": ""}])  # fails before the first question
    directory.graph("model")
    settings = sampling_from(arguments, max_new_tokens=_DEFAULT_MAX_NEW_TOKENS)
    system: list[Message] = [{"role": "system", "content": arguments.system}] if arguments.system else []
    messages = list(system)
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        sys.stderr.write(f"{_HELP}\n")
    while (content := _read(is_terminal)) is not None:
        if content == "/new":
            messages = list(system)
        elif content:
            messages.append({"role": "user", "content": content})
            answer = _answer(model, tokenizer, messages, settings)
            messages.append({"role": "assistant", "content": answer})
    return DONE


def _read(is_terminal: bool) -> str | None:
    """Return the user's next message; None at the end of the input or on Ctrl-C."""
    try:
        return input("> " if is_terminal else "").strip()
    except (EOFError, KeyboardInterrupt):
        if is_terminal:
            sys.stderr.write("\n")
        return None


def _answer(model: LightModel, tokenizer: DirectoryTokenizer, messages: list[Message], settings: dict[str, Any]) -> str:
    """Print an answer token by token and return it, or the part that was generated before Ctrl-C."""
    from onnxport.cli._generation import write

    answer = ""
    try:
        inputs = tokenizer.encode([tokenizer.apply_chat_template(messages)], add_special_tokens=False)
        _, steps = model.stream(inputs, **settings)
        for piece in tokenizer.decode_stream(int(step[0]) for step in steps):
            answer += piece
            write(piece)
    except KeyboardInterrupt:
        sys.stderr.write(" [stopped]")
    write("\n")
    return answer
