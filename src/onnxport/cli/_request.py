"""The inputs of `onnxport run`, as parsed from the command line, and its result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxport.errors import OptionError

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
        image: path of an image file.
        audio: path of an audio file.
        input_ids: token ids of one sequence, instead of text.

    Raises:
        OptionError: options contradict each other.
    """

    texts: tuple[str, ...] = ()
    text_pairs: tuple[str, ...] = ()
    question: str | None = None
    image: str | None = None
    audio: str | None = None
    input_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.texts and self.input_ids:
            raise OptionError("pass --text or --input-ids, not both")
        if self.text_pairs and self.question:
            raise OptionError("pass --text-pair or --question, not both")
        if self.text_pairs and len(self.text_pairs) != len(self.texts):
            raise OptionError(f"{len(self.text_pairs)} --text-pair for {len(self.texts)} --text: pass one for each")

    def load_image(self) -> Image:
        """Return the image, in RGB.

        Raises:
            OptionError: no image was passed, or its file can't be read.
        """
        from PIL import Image

        if not self.image:
            raise OptionError("pass an image with --image")
        try:
            with Image.open(self.image) as opened:
                return opened.convert("RGB")
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise OptionError(f"--image {self.image}: {getattr(error, 'strerror', None) or error}") from error

    def load_audio(self, sampling_rate: int) -> NDArray[np.float32]:
        """Return the audio as mono samples, [time].

        Raises:
            OptionError: no audio was passed, or its file can't be read.
        """
        from onnxport.cli._audio import read_audio

        if not self.audio:
            raise OptionError("pass an audio file with --audio")
        return read_audio(self.audio, sampling_rate)


@dataclass(frozen=True)
class RunResult:
    """Hold a result.

    Attributes:
        lines: text for standard output.
        values: values for `--json`.
    """

    lines: list[str]
    values: Any
