"""Samples that the package ships: image, recording of speech, sentences and text, made for it and under its license.

The image is a drawing of a house, a tree and the sun, 320 x 240 pixels in RGB. The recording is synthetic speech, 2.7
seconds of one channel at 16 kHz: "An export is a blueprint plus weights." The text is a story in English.
"""

from __future__ import annotations

import wave
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnxport.errors import OptionError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

SENTENCES = (
    "An export is a blueprint plus weights.",
    "The house stands beside a tree, and the sun shines.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich: 1,204 of them!",
)
"""Sentences of different lengths."""
_DIRECTORY = Path(__file__).parent


def text(file: str | Path | None = None) -> str:
    """Return the text, or that of a user's file.

    Args:
        file: a text file in UTF-8; None for the package's text.

    Raises:
        OptionError: the file can't be read.
    """
    path = _DIRECTORY / "text.txt" if file is None else Path(file)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"--calibration {str(path)!r} can't be read ({error}); pass a text file in UTF-8") from error


def image() -> Image:
    """Return the image, in RGB."""
    from PIL import Image

    with Image.open(_DIRECTORY / "image.jpg") as opened:
        return opened.convert("RGB")


def recording(sampling_rate: int, seconds: float = 0.0) -> NDArray[np.float32]:
    """Return the samples of the recording, between -1 and 1, [samples].

    Args:
        sampling_rate: samples per second, to which the recording is resampled by linear interpolation.
        seconds: length to which the recording is repeated; 0 for its own.
    """
    with wave.open(str(_DIRECTORY / "recording.wav")) as opened:
        rate, data = opened.getframerate(), opened.readframes(opened.getnframes())
    samples = np.frombuffer(data, dtype="<i2").astype(np.float32) / 32768
    times = np.arange(0, len(samples) / rate, 1 / sampling_rate)
    resampled = np.interp(times, np.arange(len(samples)) / rate, samples).astype(np.float32)
    return np.resize(resampled, round(seconds * sampling_rate)) if seconds else resampled
