"""Open GGUF files: alone, in a directory, truncated."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from onnxport.checkpoint.checkpoint import open_checkpoint
from onnxport.checkpoint.gguf import read_gguf_header
from onnxport.errors import CheckpointNotFoundError, CorruptCheckpointError
from onnxport.options import ExportOptions

pytest.importorskip("gguf")
OPTIONS = ExportOptions()


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf_bytes(*, ggml_type: int = 0, architecture: str | None = "llama", version: int = 3) -> bytes:
    pairs = [text("tokens") + struct.pack("<IIQ", 9, 8, 2) + text("x") + text("yy"),
             text("n") + struct.pack("<II", 4, 7)]  # fmt: skip
    if architecture:
        pairs.append(text("general.architecture") + struct.pack("<I", 8) + text(architecture))
    tensor = text("w") + struct.pack("<I2QIQ", 2, 4, 8, ggml_type, 0)
    head = b"GGUF" + struct.pack("<IQQ", version, 1, len(pairs)) + b"".join(pairs) + tensor
    return head + bytes(-len(head) % 32) + bytes(128)


def test_opens_a_file_and_a_directory_with_one(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes())
    for location in (path, tmp_path, str(path)):
        checkpoint = open_checkpoint(location, OPTIONS)
        assert (checkpoint.format, checkpoint.model_type, checkpoint.config) == ("gguf", "llama", {})
        assert checkpoint.weight_files == (path,) and checkpoint.directory == tmp_path
    assert read_gguf_header(path).metadata == {"n": 7, "general.architecture": "llama"}


def test_several_files_are_an_error(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(gguf_bytes())
    with pytest.raises(CheckpointNotFoundError, match=r"2 GGUF files.*a\.gguf"):
        open_checkpoint(tmp_path, OPTIONS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gguf_bytes()[:-1], r"'w' ends at byte 128 .*only 127.*truncated"),
        (gguf_bytes()[:40], "header is truncated"),
        (gguf_bytes()[:4], "header is truncated"),
        (b"GGML" + bytes(50), "not b'GGUF'"),
        (gguf_bytes(version=9), "version 9"),
        (gguf_bytes(ggml_type=999), "unknown type 999"),
        (gguf_bytes(architecture=None), "has no general.architecture"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 60), "damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "truncated"),
    ],
)
def test_a_damaged_file_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(CorruptCheckpointError, match=rf"m\.gguf.*{message}"):
        open_checkpoint(path, OPTIONS)
