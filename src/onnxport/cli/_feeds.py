"""From the command line's texts, pictures, sounds and token numbers to a graph's inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxport.cli._exported import Arrays, Exported
from onnxport.errors import CheckpointNotFoundError, OptionError
from onnxport.patching.patch import Replacement
from onnxport.patching.scope import patching


@dataclass(frozen=True)
class Given:
    """Hold what the user gave.

    Attributes:
        texts: texts, or the contexts of a question.
        pairs: second text of each.
        question: question about each text.
        image: file with a picture.
        audio: .wav file.
        input_ids: token numbers, [1, length].
    """

    texts: tuple[str, ...] = ()
    pairs: tuple[str, ...] = ()
    question: str | None = None
    image: str | None = None
    audio: str | None = None
    input_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.texts and self.input_ids:
            raise OptionError("give --text or --input-ids, not both")
        if self.pairs and self.question:
            raise OptionError("give --text-pair or --question, not both")
        if self.pairs and len(self.pairs) != len(self.texts):
            raise OptionError(f"{len(self.pairs)} --text-pair for {len(self.texts)} --text: give one for each")


def tokenizer_of(exported: Exported, given: Given) -> Any:
    """Load the tokenizer; None where token numbers stand for the text and the directory has none."""
    try:
        return exported.load("AutoTokenizer")
    except CheckpointNotFoundError:
        if given.input_ids:
            return None
        raise


def text_feed(given: Given, tokenizer: Any) -> Arrays:
    """Make token inputs, [texts, length].

    Raises:
        OptionError: there is no text.
    """
    if given.input_ids:
        return {"input_ids": np.array([given.input_ids], dtype=np.int64)}
    if not given.texts:
        raise OptionError("give at least one --text (or token numbers with --input-ids)")
    padding = len(given.texts) > 1
    missing = padding and tokenizer.pad_token is None
    texts = list(given.texts)
    first, second = ([given.question] * len(texts), texts) if given.question else (texts, list(given.pairs) or None)
    with patching(*((Replacement(tokenizer, "pad_token", tokenizer.eos_token),) if missing else ())):
        return dict(tokenizer(first, second, padding=padding, truncation=True, return_tensors="np"))


def image_feed(exported: Exported, given: Given) -> Arrays:
    """Make pixels, [1, channels, height, width].

    Raises:
        OptionError: there is no picture, or it can't be read.
    """
    from PIL import Image

    if not given.image:
        raise OptionError("give a picture with --image")
    try:
        with Image.open(given.image) as opened:
            image = opened.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise OptionError(f"--image {given.image}: {getattr(error, 'strerror', None) or error}") from error
    return _arrays(exported.load("AutoImageProcessor")(images=image, return_tensors="pt"))


def audio_feed(exported: Exported, given: Given) -> Arrays:
    """Make samples or features of a sound.

    Raises:
        OptionError: there is no sound, or it can't be read.
    """
    from onnxport.cli._audio import read_wav

    if not given.audio:
        raise OptionError("give a sound with --audio")
    extractor = exported.load("AutoFeatureExtractor")
    rate = extractor.sampling_rate
    return _arrays(extractor(read_wav(given.audio, rate), sampling_rate=rate, return_tensors="np"))


_FILES = {"pixel_values": "--image", "input_features": "--audio", "input_values": "--audio"}
"""Inputs that are made of a file to the option that names it."""


def feed_of(exported: Exported, given: Given, tokenizer: Any = None) -> Arrays:
    """Make inputs of everything that was given.

    Raises:
        OptionError: nothing was given, or a text to a graph that takes none.
    """
    feed: Arrays = {}
    wanted = {option for name, option in _FILES.items() if name in exported.inputs}
    if given.texts and wanted and "input_ids" not in exported.inputs and not (given.image or given.audio):
        raise OptionError(f"the graph takes no text, its inputs are {', '.join(exported.inputs)}: give {wanted.pop()}")
    if given.texts or given.input_ids:
        feed |= text_feed(given, tokenizer or tokenizer_of(exported, given))
    if given.image:
        feed |= image_feed(exported, given)
    if given.audio:
        feed |= audio_feed(exported, given)
    pixels, rows = feed.get("pixel_values"), max((len(array) for array in feed.values()), default=0)
    if pixels is not None and len(pixels) == 1 < rows:
        feed["pixel_values"] = np.repeat(pixels, rows, axis=0)  # the graph has one batch axis for both
    if not feed:
        needed = ", ".join(name for name in exported.inputs if not name.startswith("past_key_values."))
        raise OptionError(f"give --text, --input-ids, --image or --audio: the graph's inputs are {needed}")
    return feed


def _arrays(features: Any) -> Arrays:
    """Return tensors and arrays as arrays; today's image processors make tensors only."""
    return {name: np.asarray(value) for name, value in features.items() if hasattr(value, "__array__")}
