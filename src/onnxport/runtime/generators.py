"""Generate text from prompts and conversations: without torch for text decoders, else with Transformers' `generate`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from onnxport.errors import CheckpointNotFoundError, MissingDependencyError
from onnxport.runtime.languages import Languages, language_settings
from onnxport.runtime.light import LightModel
from onnxport.runtime.sampling import directory_settings, unsupported
from onnxport.runtime.tokenizer import DirectoryTokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from onnxport.runtime.directory import Directory

Write = Callable[[str], None]
"""Receives the text that is generated, piece by piece."""


@dataclass(frozen=True)
class Prompt:
    """Hold a prompt.

    Attributes:
        text: the text; empty for none.
        images: images in RGB, in the order of their placeholders in the text.
        audio: audio clips in the model's sampling rate, [time] each.
    """

    text: str = ""
    images: tuple[Image, ...] = ()
    audio: tuple[NDArray[np.float32], ...] = ()

    def content(self) -> list[dict[str, Any]]:
        """Return the content of a message: images, audio, then the text."""
        parts: list[dict[str, Any]] = [{"type": "image", "image": image} for image in self.images]
        parts += [{"type": "audio", "audio": clip} for clip in self.audio]
        return [*parts, {"type": "text", "text": self.text}] if self.text else parts


@dataclass(frozen=True)
class Turn:
    """Hold a message of a conversation.

    Attributes:
        role: system, user or assistant.
        prompt: its text, images and audio.
    """

    role: str
    prompt: Prompt


@dataclass(frozen=True)
class Generated:
    """Hold a generated sequence.

    Attributes:
        text: the text, without special tokens; empty without a tokenizer.
        token_ids: ids of the new tokens, without those that end the sequence.
    """

    text: str
    token_ids: tuple[int, ...]


_NEEDS_PROCESSOR = (
    "images and audio need torch and transformers: pip install 'onnxport[export]'; without them, onnxport generates "
    "from text"
)


class Generator(Protocol):
    """Generate text with an exported directory."""

    @property
    def sampling_rate(self) -> int:
        """Samples per second of audio clips, in Hz."""

    def encode(self, prompt: Prompt) -> Mapping[str, Any]:
        """Make the model's inputs of a prompt."""

    def encode_chat(self, turns: Sequence[Turn]) -> Mapping[str, Any]:
        """Make the model's inputs of a conversation."""

    def generate(
        self, inputs: Mapping[str, Any], settings: Mapping[str, Any], write: Write | None = None
    ) -> list[Generated]:
        """Generate one sequence, or several if the settings ask for them.

        Args:
            inputs: see `encode`.
            settings: settings of Transformers' `generate`, and `seed`; defaults are in `generation_config.json`.
            write: called with each piece of the text.
        """


def has_transformers() -> bool:
    """Return whether torch and Transformers are installed."""
    return find_spec("torch") is not None and find_spec("transformers") is not None


def open_generator(
    directory: Directory, *, needs_processor: bool = False, languages: Languages | None = None
) -> Generator:
    """Return the generator for a directory.

    Text decoders generate without torch, whose import takes seconds, unless a setting of the checkpoint or the
    tokenizer requires Transformers. All others generate with Transformers if it is installed.

    Args:
        directory: the exported directory.
        needs_processor: whether prompts have images or audio.
        languages: languages of a translation.

    Raises:
        MissingDependencyError: torch or Transformers is required and isn't installed.
        OptionError: the tokenizer has no token for a language.
    """
    settings = directory_settings(directory.generation_config, directory.config)
    is_light = directory.has("model") and not unsupported(settings) and not directory.manifest.adds_tokens
    if not has_transformers():
        if needs_processor:
            raise MissingDependencyError(_NEEDS_PROCESSOR)
    elif needs_processor or languages is not None or not is_light or not _has_fast_tokenizer(directory):
        from onnxport.runtime.transformers_generator import TransformersGenerator

        return TransformersGenerator(directory, languages)
    return LightGenerator(directory, languages)


def _has_fast_tokenizer(directory: Directory) -> bool:
    """Return whether there is a `tokenizer.json`, or no tokenizer at all."""
    names = ("tokenizer.json", "tokenizer_config.json")
    return (directory.path / names[0]).is_file() or not (directory.path / names[1]).is_file()


class LightGenerator:
    """Generate with NumPy and ONNX Runtime only.

    Args:
        directory: the exported directory.
        languages: languages of a translation; only the target is supported.

    Raises:
        OptionError: the tokenizer has no token for the target language.
        MissingDependencyError: a source language is passed.
    """

    def __init__(self, directory: Directory, languages: Languages | None = None) -> None:
        self._directory = directory
        self._model = LightModel(directory)
        self._tokenizer_or_none: DirectoryTokenizer | None = None
        self._language_settings: dict[str, Any] = {}
        self._prefix = ""
        if languages is not None:
            if languages.source is not None:
                raise MissingDependencyError(
                    "--source-language needs torch and transformers: pip install 'onnxport[export]'"
                )
            tokenizer = self._tokenizer
            found = language_settings(languages, tokenizer.token_id, tokenizer.added_tokens)
            self._language_settings, self._prefix = found

    @property
    def _tokenizer(self) -> DirectoryTokenizer:
        if self._tokenizer_or_none is None:
            self._tokenizer_or_none = DirectoryTokenizer(self._directory)
        return self._tokenizer_or_none

    @property
    def sampling_rate(self) -> int:
        """Not available: audio is preprocessed by Transformers.

        Raises:
            MissingDependencyError: always.
        """
        raise MissingDependencyError(_NEEDS_PROCESSOR)

    def encode(self, prompt: Prompt) -> Mapping[str, NDArray[np.int64]]:
        """Tokenize a prompt.

        Raises:
            CheckpointNotFoundError: the directory has no `tokenizer.json`.
        """
        return self._tokenizer.encode([self._prefix + prompt.text])

    def encode_chat(self, turns: Sequence[Turn]) -> Mapping[str, NDArray[np.int64]]:
        """Tokenize a conversation.

        Raises:
            CheckpointNotFoundError: the directory has no `tokenizer.json`.
            UnsupportedError: it has no chat template, or the template rejects the conversation.
            MissingDependencyError: a message has images or audio.
        """
        if any(turn.prompt.images or turn.prompt.audio for turn in turns):
            raise MissingDependencyError(_NEEDS_PROCESSOR)
        text = self._tokenizer.apply_chat_template([{"role": turn.role, "content": turn.prompt.text} for turn in turns])
        return self._tokenizer.encode([text], add_special_tokens=False)

    def generate(
        self, inputs: Mapping[str, Any], settings: Mapping[str, Any], write: Write | None = None
    ) -> list[Generated]:
        """Generate one sequence; see `Generator`."""
        _, steps = self._model.stream(inputs, **self._language_settings, **settings)
        token_ids: list[int] = []

        def generated() -> Iterator[int]:
            for step in steps:
                token_ids.append(int(step[0]))
                yield token_ids[-1]

        try:
            tokenizer = self._tokenizer
        except CheckpointNotFoundError:  # the prompt is token ids
            return [Generated("", _without(list(generated()), self._directory.eos_token_ids))]
        if write is None:
            list(generated())
        else:
            for text in tokenizer.decode_stream(generated()):
                write(text)
        new_ids = _without(token_ids, self._directory.eos_token_ids)
        return [Generated(tokenizer.decode(new_ids), new_ids)]


def _without(token_ids: Sequence[int], excluded: frozenset[int]) -> tuple[int, ...]:
    return tuple(index for index in token_ids if index not in excluded)
