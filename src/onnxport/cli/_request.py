"""The inputs of `onnxport run`, as parsed from the command line, and its result."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxport.errors import MissingDependencyError, OptionError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image


@dataclass(frozen=True)
class RunRequest:
    """Hold the inputs.

    Attributes:
        texts: prompts, sequences, or the contexts of a question.
        text_pairs: second sequence of each.
        question: question about each context.
        images: paths of image files.
        audio: paths of audio files.
        input_ids: token ids of one sequence, instead of text.
        language: language of the audio (Whisper).
        audio_task: what to do with it, transcribe or translate (Whisper).
        source_language: language of the texts, for a multilingual translator.
        target_language: language of the generated text, for a multilingual translator.
        save: file to write generated audio to.
        vocoder: export of the model that makes audio of generated spectrograms.

    Raises:
        OptionError: options contradict each other.
    """

    texts: tuple[str, ...] = ()
    text_pairs: tuple[str, ...] = ()
    question: str | None = None
    images: tuple[str, ...] = ()
    audio: tuple[str, ...] = ()
    input_ids: tuple[int, ...] = ()
    language: str | None = None
    audio_task: str | None = None
    source_language: str | None = None
    target_language: str | None = None
    save: Path | None = None
    vocoder: Path | None = None

    def __post_init__(self) -> None:
        if self.texts and self.input_ids:
            raise OptionError("pass --text or --input-ids, not both")
        if self.text_pairs and self.question:
            raise OptionError("pass --text-pair or --question, not both")
        if self.text_pairs and len(self.text_pairs) != len(self.texts):
            raise OptionError(f"{len(self.text_pairs)} --text-pair for {len(self.texts)} --text: pass one for each")

    @property
    def modalities(self) -> frozenset[str]:
        """The modalities of the inputs: `text`, `image` and `audio`."""
        passed = {"text": self.texts or self.input_ids, "image": self.images, "audio": self.audio}
        return frozenset(name for name, values in passed.items() if values)

    def check_files(self, task: str, names: Collection[str]) -> None:
        """Check that graphs take the images and audio.

        Args:
            task: the task of the graphs.
            names: names of the graphs' inputs.

        Raises:
            OptionError: they don't.
        """
        options = {option for name in names if (option := _file_option(name))}
        for option, paths in (("--image", self.images), ("--audio", self.audio)):
            if paths and option not in options:
                raise OptionError(f"{option} doesn't apply: the graphs for {task} take {self.options_for(names)}")

    def missing_options(self, names: Collection[str]) -> set[str]:
        """Return the options with a graph's main inputs that weren't passed."""
        passed = {"--image": bool(self.images), "--audio": bool(self.audio), "--text": bool(self.texts)}
        options = {option for name in names if (option := _file_option(name))}
        options |= {"--text"} if "input_ids" in names else set()
        return {option for option in options if not passed[option]}

    @staticmethod
    def options_for(names: Collection[str]) -> str:
        """Return the options for graphs' main inputs."""
        options = sorted({option for name in names if (option := _file_option(name))})
        return " or ".join([*options, *(["--text"] if "input_ids" in names else [])])

    def load_images(self) -> tuple[Image, ...]:
        """Return the images, in RGB, turned as their EXIF orientation says.

        Raises:
            OptionError: no image was passed, or a file can't be read.
        """
        if not self.images:
            raise OptionError("pass an image with --image")
        return tuple(read_image(path) for path in self.images)

    def load_audio(self, sampling_rate: int) -> tuple[NDArray[np.float32], ...]:
        """Return the audio clips as mono samples, [time] each.

        Raises:
            OptionError: no audio was passed, or a file can't be read.
        """
        from onnxport.cli._audio import read_audio

        if not self.audio:
            raise OptionError("pass an audio file with --audio")
        return tuple(read_audio(path, sampling_rate) for path in self.audio)


def _file_option(name: str) -> str | None:
    """Return the option with the files that a graph's input is made of; None if there is none."""
    return next((option for part, option in _FILE_INPUTS.items() if part in name and "mask" not in name), None)


_FILE_INPUTS = {
    **{"pixel_values": "--image", "images": "--image", "flattened_patches": "--image", "image_patches": "--image"},
    **{"input_features": "--audio", "input_values": "--audio"},
}
"""Parts of the names of inputs that are made of files, to the option that names the files."""


def read_image(path: str) -> Image:
    """Return an image in RGB, turned as its EXIF orientation says.

    Raises:
        OptionError: the file can't be read.
        MissingDependencyError: Pillow isn't installed.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise MissingDependencyError("--image needs Pillow: pip install 'onnxport[export]'") from error
    try:
        with Image.open(path) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OptionError(
            f"--image {path}: {reason}; pass an image file that Pillow reads, such as PNG or JPEG"
        ) from error


@dataclass(frozen=True)
class RunResult:
    """Hold a result.

    Attributes:
        lines: text for standard output.
        values: values for `--json`.
    """

    lines: list[str]
    values: Any
