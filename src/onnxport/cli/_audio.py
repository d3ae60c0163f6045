"""Read an audio file with soundfile, and resample it with soxr to the sampling rate of a model; write one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnxport.errors import MissingDependencyError, OptionError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def read_audio(path: str | Path, sampling_rate: int) -> NDArray[np.float32]:
    """Read an audio file as mono.

    Args:
        path: a file in a format that libsndfile reads: WAV, FLAC, Ogg Vorbis, Opus, MP3, AIFF, …
        sampling_rate: samples per second of the result, in Hz.

    Returns:
        Samples between -1 and 1, [time].

    Raises:
        OptionError: the file can't be read, or has no samples.
        MissingDependencyError: soundfile or soxr isn't installed.
    """
    try:
        import soundfile
        import soxr
    except (ImportError, OSError) as error:  # OSError: soundfile is installed and libsndfile isn't
        raise MissingDependencyError("--audio needs soundfile and soxr: pip install 'onnxport[audio]'") from error
    try:
        with Path(path).open("rb") as file:
            samples, file_rate = soundfile.read(file, dtype="float32", always_2d=True)
    except OSError as error:
        raise OptionError(f"--audio {path}: {error.strerror or error}") from error
    except soundfile.LibsndfileError as error:
        raise OptionError(
            f"--audio {path}: {error.error_string} pass a WAV, FLAC, Ogg or MP3 file, or convert it to one"
        ) from error
    if not len(samples):
        raise OptionError(f"--audio {path}: the file has no samples; pass another file")
    mono = samples.mean(axis=1)
    return np.asarray(soxr.resample(mono, file_rate, sampling_rate, quality="VHQ"), dtype=np.float32)


def write_audio(path: Path, samples: NDArray[np.float32], sampling_rate: int) -> None:
    """Write a WAV file of 16 bits per sample.

    Args:
        path: the file, which is replaced if it exists.
        samples: between -1 and 1, [time, channels].
        sampling_rate: samples per second, in Hz.

    Raises:
        OptionError: the file can't be written.
        MissingDependencyError: soundfile isn't installed.
    """
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise MissingDependencyError("--save needs soundfile: pip install 'onnxport[audio]'") from error
    try:
        with path.open("wb") as file:
            soundfile.write(file, samples, sampling_rate, format="WAV", subtype="PCM_16")
    except OSError as error:
        raise OptionError(f"--save {path}: {error.strerror or error}") from error
