"""`onnxport chat DIR`: a conversation with an exported model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxport._process import write_error
from onnxport.cli._options import add_dtype
from onnxport.cli._outcome import DONE, print_error
from onnxport.cli._sampling import add_sampling, positive_int, sampling_from, with_length
from onnxport.errors import message_of

if TYPE_CHECKING:
    from onnxport.runtime.directory import Directory
    from onnxport.runtime.generators import Generator, Prompt, Turn

_DEFAULT_MAX_NEW_TOKENS = 512
_HELP = "Ctrl-C stops an answer, Ctrl-D ends the conversation, /new starts another one."
_COMMANDS = {"image": "/image", "audio": "/audio"}
"""Modality to the command that adds a file to the next message."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("directory", metavar="DIR", help="directory that onnxport export wrote")
    parser.add_argument("--system", metavar="TEXT", help="system message")
    add_sampling(parser)
    parser.add_argument(
        "--adapter", type=Path, metavar="FILE", help="adapter to run with, for an export with --adapter-inputs"
    )
    add_dtype(parser)
    parser.add_argument("--threads", type=positive_int, metavar="N", help="intra-op threads of ONNX Runtime")


def run(arguments: argparse.Namespace) -> int:
    """Read messages and print answers until the input ends."""
    from onnxport.runtime.directory import Directory
    from onnxport.runtime.generators import Prompt, Turn, open_generator
    from onnxport.runtime.settings import RunSettings

    settings = RunSettings(threads=arguments.threads, adapter=arguments.adapter, dtype=arguments.dtype)
    directory = Directory(arguments.directory, settings)
    _check_directory(directory)
    generator = open_generator(directory)
    system = [Turn("system", Prompt(arguments.system))] if arguments.system else []
    generator.encode_chat([*system, Turn("user", Prompt("Hello"))])  # fails before the first question
    for name in directory.component_names:
        directory.graph(name)
    generation = with_length(sampling_from(arguments), directory, _DEFAULT_MAX_NEW_TOKENS)
    _Conversation(directory, generator, system, generation).talk()
    return DONE


def _check_directory(directory: Directory) -> None:
    from onnxport.errors import CheckpointNotFoundError, UnsupportedError
    from onnxport.runtime.light import LightModel

    if not any((directory.path / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        raise CheckpointNotFoundError(
            f"{directory.path} has no tokenizer.json, which onnxport chat needs: save the checkpoint's tokenizer in it"
        )
    if not LightModel(directory).can_generate or directory.has("encoder_model"):
        raise UnsupportedError(
            f"{directory.path} was exported for {directory.manifest.task}: onnxport chat needs a decoder of text, "
            "images or audio that generates"
        )


@dataclass
class _Conversation:
    """Hold a conversation.

    Attributes:
        directory: the exported directory.
        generator: generates the answers.
        system: the system message, or nothing.
        settings: settings of Transformers' `generate`, and `seed`.
        turns: the messages so far.
        attached: images and audio clips of the next message.
    """

    directory: Directory
    generator: Generator
    system: list[Turn]
    settings: dict[str, Any]
    turns: list[Turn] = field(init=False)
    attached: Prompt = field(init=False)

    def talk(self) -> None:
        """Answer each message of standard input.

        Raises:
            OnnxportError: a message can't be answered, and standard input isn't a terminal.
        """
        from onnxport.errors import OnnxportError

        is_terminal = sys.stdin.isatty()
        if is_terminal:
            files = "".join(f" {command} FILE adds a file to the next message." for command in self._commands())
            write_error(f"{_HELP}{files}\n")
        self._restart()
        while (content := _read(is_terminal)) is not None:
            try:
                self._take(content)
            except OnnxportError as error:
                if not is_terminal:
                    raise
                print_error(message_of(error))

    def _restart(self) -> None:
        from onnxport.runtime.generators import Prompt

        self.turns, self.attached = list(self.system), Prompt()

    def _commands(self) -> list[str]:
        names = {modality.name for modality in self.directory.modalities}
        return [command for name, command in _COMMANDS.items() if name in names]

    def _take(self, content: str) -> None:
        """Obey a command, or answer a message."""
        from onnxport.runtime.generators import Prompt, Turn

        command, _, path = content.partition(" ")
        if content == "/new":
            self._restart()
        elif command in _COMMANDS.values():
            self._attach(command, path.strip())
        elif content:
            prompt = replace(self.attached, text=content)
            turns = [*self.turns, Turn("user", prompt)]
            inputs = self.generator.encode_chat(turns)
            self.attached = Prompt()
            self.turns = [*turns, Turn("assistant", Prompt(_answer(self.generator, inputs, self.settings)))]

    def _attach(self, command: str, path: str) -> None:
        """Add an image or an audio file to the next message.

        Raises:
            OptionError: the model doesn't take it, or the file can't be read.
        """
        from onnxport.cli._request import RunRequest
        from onnxport.errors import OptionError

        if command not in self._commands():
            raise OptionError(f"{command}: the model takes {' and '.join(self._commands()) or 'text only'}")
        if not path:
            raise OptionError(f"{command} needs a file: {command} FILE")
        if command == _COMMANDS["image"]:
            images = RunRequest(images=(path,)).load_images()
            self.attached = replace(self.attached, images=self.attached.images + images)
        else:
            clips = RunRequest(audio=(path,)).load_audio(self.generator.sampling_rate)
            self.attached = replace(self.attached, audio=self.attached.audio + clips)


def _read(is_terminal: bool) -> str | None:
    """Return the user's next message; None at the end of the input or on Ctrl-C."""
    try:
        return input("> " if is_terminal else "").strip()
    except (EOFError, KeyboardInterrupt):
        if is_terminal:
            write_error("\n")
        return None


def _answer(generator: Generator, inputs: Mapping[str, Any], settings: dict[str, Any]) -> str:
    """Print an answer token by token and return it, or the part that was generated before Ctrl-C."""
    from onnxport.cli._generation import write

    pieces: list[str] = []

    def show(piece: str) -> None:
        pieces.append(piece)
        write(piece)

    try:
        generator.generate(inputs, settings, show)
    except KeyboardInterrupt:
        write_error(" [stopped]")
    write("\n")
    return "".join(pieces)
