"""Reading audio files: formats, sample widths, channels, sampling rates, and files that aren't audio."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from onnxport.cli._audio import read_audio
from onnxport.errors import MissingDependencyError, OptionError


def tone(rate: int, frequency: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(rate) / rate)


def save(file: Path, samples: np.ndarray, rate: int, *, channels: int = 1, **options: str) -> Path:
    soundfile.write(file, np.repeat(samples[:, None], channels, axis=1), rate, **options)
    return file


@pytest.mark.parametrize(
    ("subtype", "atol"),
    [("PCM_U8", 1e-2), ("PCM_16", 1e-4), ("PCM_24", 1e-6), ("PCM_32", 1e-6), ("FLOAT", 1e-6), ("DOUBLE", 1e-6)],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_wav(subtype: str, atol: float, channels: int, tmp_path: Path) -> None:
    file = save(tmp_path / "a.wav", tone(16_000), 16_000, channels=channels, subtype=subtype)
    found = read_audio(file, 16_000)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, tone(16_000), atol=atol)


@pytest.mark.parametrize(("suffix", "atol"), [("flac", 1e-4), ("ogg", 2e-2), ("mp3", 2e-2)])
def test_compressed_formats(suffix: str, atol: float, tmp_path: Path) -> None:
    found = read_audio(save(tmp_path / f"a.{suffix}", tone(44_100), 44_100), 44_100)
    np.testing.assert_allclose(found[2_000:40_000], tone(44_100)[2_000:40_000], atol=atol)


@pytest.mark.parametrize("file_rate", [8_000, 22_050, 44_100, 48_000])
def test_another_sampling_rate(file_rate: int, tmp_path: Path) -> None:
    found = read_audio(save(tmp_path / "a.wav", tone(file_rate), file_rate, subtype="FLOAT"), 16_000)
    assert found.shape == (16_000,)
    inner = slice(800, -800)  # the tone starts and ends abruptly
    np.testing.assert_allclose(found[inner], tone(16_000)[inner], atol=1e-6)


def test_frequencies_above_the_new_limit_are_removed(tmp_path: Path) -> None:
    found = read_audio(save(tmp_path / "a.wav", tone(44_100, 12_000), 44_100, subtype="FLOAT"), 16_000)
    assert np.abs(found[800:-800]).max() < 1e-6


@pytest.mark.parametrize("content", [b"", b"RIFF", b"no audio at all, but long enough for a header of some format"])
def test_files_that_are_not_audio(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(OptionError, match=r"--audio .*a\.wav: .+pass a WAV, FLAC, Ogg or MP3 file"):
        read_audio(tmp_path / "a.wav", 16_000)


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="No such file"):
        read_audio(tmp_path / "a.wav", 16_000)
    with pytest.raises(OptionError, match="no samples"):
        read_audio(save(tmp_path / "b.wav", np.zeros(0), 16_000), 16_000)


@pytest.mark.parametrize("package", ["soundfile", "soxr"])
def test_a_missing_package_is_named_with_its_extra(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'onnxport\[audio\]'"):
        read_audio(tmp_path / "a.wav", 16_000)
