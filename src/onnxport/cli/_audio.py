"""Read a .wav file with the standard library, and bring it to the rate that a model wants."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.errors import OptionError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def read_wav(path: str | Path, rate: int) -> NDArray[np.float32]:
    """Read a sound as one channel.

    Args:
        path: file of 8, 16, 24 or 32-bit integer samples.
        rate: samples per second to return.

    Returns:
        Samples between -1 and 1, [time].

    Raises:
        OptionError: it can't be read, or holds nothing.
    """
    try:
        with wave.open(str(path), "rb") as audio:
            own_rate, channels, width = audio.getframerate(), audio.getnchannels(), audio.getsampwidth()
            frames = audio.readframes(audio.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        reason = getattr(error, "strerror", None) or str(error) or "the file ends early"
        raise OptionError(f"--audio {path}: {reason}; give a .wav file with integer samples") from error
    whole = len(frames) // (width * channels) * channels
    samples = _decoded(frames[: whole * width], width).reshape(-1, channels).mean(axis=1)
    if not len(samples):
        raise OptionError(f"--audio {path}: the file holds no samples")
    return resampled(samples, own_rate, rate).astype(np.float32)


def resampled(samples: NDArray[Any], old: int, new: int) -> NDArray[Any]:
    """Change the rate of a sound, [time], by cutting or padding its spectrum: nothing above the new limit aliases."""
    if old == new:
        return samples
    length = max(1, round(len(samples) * new / old))
    spectrum = np.fft.rfft(samples)
    kept = np.zeros(length // 2 + 1, dtype=spectrum.dtype)
    shared = min(len(kept), len(spectrum))
    kept[:shared] = spectrum[:shared]
    return np.fft.irfft(kept, n=length) * (length / len(samples))


def _decoded(frames: bytes, width: int) -> NDArray[np.float64]:
    """Turn little-endian integers of `width` bytes into numbers between -1 and 1; single bytes are unsigned."""
    if width == 1:
        return (np.frombuffer(frames, dtype=np.uint8).astype(np.float64) - 128) / 128
    wide = np.zeros((len(frames) // width, 4), dtype=np.uint8)
    wide[:, 4 - width :] = np.frombuffer(frames, dtype=np.uint8).reshape(-1, width)
    return wide.view("<i4")[:, 0].astype(np.float64) / 2**31
