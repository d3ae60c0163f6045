"""Reading sounds: every width, several channels, another rate, and files that are none."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from onnxport.cli._audio import read_wav, resampled
from onnxport.errors import OptionError


def tone(rate: int, frequency: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(rate) / rate)


def save(file: Path, samples: np.ndarray, rate: int, width: int, channels: int = 1) -> None:
    whole = np.round(samples * (2 ** (8 * width - 1) - 1)).astype("<i8") + (128 if width == 1 else 0)
    frames = np.repeat(whole[:, None], channels, axis=1).astype("<i8")
    data = frames.reshape(-1, 1).view(np.uint8).reshape(-1, 8)[:, :width].tobytes()
    with wave.open(str(file), "wb") as audio:
        audio.setnchannels(channels)
        audio.setsampwidth(width)
        audio.setframerate(rate)
        audio.writeframes(data)


@pytest.mark.parametrize(("width", "within"), [(1, 1e-2), (2, 1e-4), (3, 1e-6), (4, 1e-6)])
@pytest.mark.parametrize("channels", [1, 2])
def test_widths(width: int, within: float, channels: int, tmp_path: Path) -> None:
    save(tmp_path / "a.wav", tone(16_000), 16_000, width, channels)
    found = read_wav(tmp_path / "a.wav", 16_000)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, tone(16_000), atol=within)


@pytest.mark.parametrize("old", [8_000, 22_050, 44_100, 48_000])
def test_another_rate(old: int) -> None:
    np.testing.assert_allclose(resampled(tone(old), old, 16_000), tone(16_000), atol=1e-6)


def test_nothing_above_the_new_limit_is_left() -> None:
    assert np.abs(resampled(tone(44_100, 12_000), 44_100, 16_000)).max() < 1e-6


@pytest.mark.parametrize("content", [b"", b"RIFF", b"not a sound at all, but long enough for a header of one"])
def test_files_that_are_no_audios(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(OptionError, match=r"--audio .*a\.wav: .+; give a \.wav"):
        read_wav(tmp_path / "a.wav", 16_000)


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="No such file"):
        read_wav(tmp_path / "a.wav", 16_000)
    save(tmp_path / "b.wav", np.zeros(0), 16_000, 2)
    with pytest.raises(OptionError, match="no samples"):
        read_wav(tmp_path / "b.wav", 16_000)
