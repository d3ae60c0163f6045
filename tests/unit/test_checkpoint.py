"""Open checkpoints on disk: the files that are found, and the error for each invalid input."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from onnxport.checkpoint.checkpoint import open_checkpoint
from onnxport.checkpoint.digest import sha256_of_file, sha256_of_files
from onnxport.errors import (
    CheckpointNotFoundError,
    CorruptCheckpointError,
    UnsupportedError,
    UntrustedCodeError,
)
from onnxport.options import ExportOptions

OPTIONS = ExportOptions()


def write_safetensors(path: Path, tensors: dict[str, list[int]]) -> None:
    header: dict[str, object] = {}
    position = 0
    for name, shape in tensors.items():
        size = 4
        for length in shape:
            size *= length
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [position, position + size]}
        position += size
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(position))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    config = {"model_type": "bert", "architectures": ["BertModel"], "torch_dtype": "float32"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    write_safetensors(tmp_path / "model.safetensors", {"a": [2, 3], "empty": [0]})
    return tmp_path


def set_config(directory: Path, **changes: object) -> None:
    config = json.loads((directory / "config.json").read_text()) | changes
    (directory / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))


def test_opens_a_directory(directory: Path) -> None:
    checkpoint = open_checkpoint(directory, OPTIONS)
    assert (checkpoint.format, checkpoint.model_type, checkpoint.architectures) == (
        "safetensors",
        "bert",
        ("BertModel",),
    )
    assert checkpoint.weight_files == (directory / "model.safetensors",)
    assert (checkpoint.name, checkpoint.revision) == (str(directory), None)


def test_needs_neither_torch_nor_transformers(directory: Path) -> None:
    code = (
        "import sys; from onnxport.checkpoint.checkpoint import open_checkpoint; "
        "from onnxport.options import ExportOptions; open_checkpoint(sys.argv[1], ExportOptions()); "
        "sys.exit(bool({'torch', 'transformers', 'onnxruntime'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(directory)], check=False).returncode == 0


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "a/b/c", "..", "-x/y", "bad name"])
def test_an_error_names_what_is_neither_directory_nor_repository(tmp_path: Path, name: str) -> None:
    target = tmp_path / "gone" if name == ".." else name
    with pytest.raises(CheckpointNotFoundError, match=r"no such directory.*owner/name"):
        open_checkpoint(target, OPTIONS)


def test_an_empty_name_is_not_the_working_directory() -> None:
    with pytest.raises(CheckpointNotFoundError, match="the model's name is empty"):
        open_checkpoint("", OPTIONS)


def test_names_the_directory_of_a_file(directory: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match="pass the directory"):
        open_checkpoint(directory / "config.json", OPTIONS)


def test_a_directory_without_config_suggests_a_subdirectory(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "config.json").write_text("{}")
    with pytest.raises(CheckpointNotFoundError, match=r"no config\.json.*inner has one"):
        open_checkpoint(tmp_path, OPTIONS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"config\.json.*empty"),
        (b'{"model_type": "be', r"config\.json.*isn't valid JSON.*cut off"),
        (b'{"model_type": "bert",', r"config\.json.*isn't valid JSON"),
        (b"model_type: bert", r"config\.json.*isn't valid JSON.*line 1 column 1"),
        (b"[1, 2]", r"config\.json.*found an array"),
        (b"null", r"config\.json.*found null"),
        (b'{"a": "\xff"}', r"config\.json.*UTF-8.*0xff"),
        (b'{"a": 1, "a": 2}', r"config\.json.*'a' occurs twice"),
        (b"[" * 100_000, r"config\.json.*(nested too deeply|isn't valid JSON)"),
        (b'{"architectures": ["BertModel"]}', r"has no model_type \(its architectures are \['BertModel'\]\)"),
        (b'{"model_type": 3}', r"model_type 3, not a string"),
        (b'{"model_type": "bert", "architectures": 3}', r"architectures is 3, which isn't a list.*--task"),
        (b'{"model_type": "bert", "architectures": "BertModel"}', r"architectures is 'BertModel'"),
        (b'{"model_type": "bert", "torch_dtype": "float31"}', r"torch_dtype is 'float31'"),
        (b'{"model_type": "bert", "dtype": 16}', r"dtype is 16"),
    ],
)
def test_an_invalid_config_is_an_error(directory: Path, content: bytes, message: str) -> None:
    (directory / "config.json").write_bytes(content)
    with pytest.raises(CorruptCheckpointError, match=message):
        open_checkpoint(directory, OPTIONS)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"])
def test_a_corrupt_side_file_is_an_error(directory: Path, name: str) -> None:
    (directory / name).write_text('{"version": "1.0", ')
    with pytest.raises(CorruptCheckpointError, match=rf"{name}.*isn't valid JSON"):
        open_checkpoint(directory, OPTIONS)


def test_an_error_lists_the_expected_files(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "flax_model.msgpack")
    expected = r"looked for model\.safetensors, .*pytorch_model\.bin, .*tf_model\.h5.*It has flax_model\.msgpack"
    with pytest.raises(CheckpointNotFoundError, match=expected):
        open_checkpoint(directory, OPTIONS)


def test_framework_tf_looks_only_for_h5(directory: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"looked for tf_model\.h5\. It has model\.safetensors"):
        open_checkpoint(directory, ExportOptions(framework="tf"))
    (directory / "tf_model.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    assert open_checkpoint(directory, ExportOptions(framework="tf")).format == "tensorflow"
    assert open_checkpoint(directory, OPTIONS).format == "safetensors"


def test_a_truncated_h5_is_an_error(directory: Path) -> None:
    import h5py

    path = directory / "tf_model.h5"
    with h5py.File(path, "w") as file:
        file["x"] = [1.0] * 1000
    whole = path.read_bytes()
    assert open_checkpoint(directory, ExportOptions(framework="tf")).weight_files == (path,)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptCheckpointError, match=r"tf_model\.h5.*truncated"):
        open_checkpoint(directory, ExportOptions(framework="tf"))
    path.write_bytes(b"not hdf5 at all")
    with pytest.raises(CorruptCheckpointError, match="isn't an HDF5 file"):
        open_checkpoint(directory, ExportOptions(framework="tf"))


def test_an_adapter_of_another_type_is_an_error(directory: Path) -> None:
    (directory / "adapter_config.json").write_text("{}")
    assert open_checkpoint(directory, OPTIONS).adapter is None  # it also has weights
    (directory / "model.safetensors").unlink()
    with pytest.raises(UnsupportedError, match=r"peft_type is None.*merge_and_unload"):
        open_checkpoint(directory, OPTIONS)


def test_code_of_the_repository_needs_the_flag(directory: Path) -> None:
    set_config(directory, model_type="mine", auto_map={"AutoConfig": "configuration_mine.MineConfig"})
    with pytest.raises(UntrustedCodeError, match=r"'mine'.*configuration_mine\.MineConfig.*--trust-remote-code"):
        open_checkpoint(directory, OPTIONS)
    assert open_checkpoint(directory, ExportOptions(trust_remote_code=True)).model_type == "mine"
    set_config(directory, model_type="bert")
    assert open_checkpoint(directory, OPTIONS).model_type == "bert"


def test_the_weights_that_the_config_names(directory: Path) -> None:
    write_safetensors(directory / "other.safetensors", {"b": [1]})
    set_config(directory, transformers_weights="other.safetensors")
    assert open_checkpoint(directory, OPTIONS).weight_files == (directory / "other.safetensors",)
    for bad in ("../other.safetensors", "/etc/x.safetensors", "weights.bin", 3):
        set_config(directory, transformers_weights=bad)
        with pytest.raises(CorruptCheckpointError, match="transformers_weights"):
            open_checkpoint(directory, OPTIONS)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "HTML page"),
        (b"\x00\x01", "fewer than the 8"),
        (struct.pack("<Q", 1 << 40) + b"{}", "has 1099511627776 bytes, more than"),
        (struct.pack("<Q", 5000) + b"{}", "has only 10: it is truncated"),
        (struct.pack("<Q", 2) + b"{]", "isn't valid JSON"),
        (struct.pack("<Q", 2) + b"[]", "found an array"),
        (struct.pack("<Q", 2) + b"{}", "has no tensors"),
    ],
)
def test_an_invalid_safetensors_header_is_an_error(directory: Path, start: bytes, message: str) -> None:
    (directory / "model.safetensors").write_bytes(start)
    with pytest.raises(CorruptCheckpointError, match=rf"model\.safetensors.*{message}"):
        open_checkpoint(directory, OPTIONS)


@pytest.mark.parametrize(
    ("tensors", "data", "message"),
    [
        ({"a": ("F32", [2], [0, 8])}, 7, r"'a' ends at byte 8 .* only 7 .* truncated"),
        ({"a": ("F32", [2], [0, 8])}, 9, r"1 bytes after the last tensor 'a'"),
        ({"a": ("F32", [3], [0, 8])}, 8, r"'a' of F32 \[3\] needs 12 bytes"),
        ({"a": ("F32", [2], [0, 8]), "b": ("F32", [2], [4, 12])}, 12, r"'b' begins at byte 4, inside 'a' up to 8"),
        ({"a": ("F32", [1], [0, 4]), "b": ("F32", [1], [8, 12])}, 12, r"4 bytes between 'a' and 'b'"),
        ({"a": ("F31", [2], [0, 8])}, 8, r"'a' has the unknown dtype 'F31'"),
        ({"a": ("F32", [-2], [0, 8])}, 8, r"'a' has the shape \[-2\]"),
        ({"a": ("F32", [2], [8, 0])}, 8, r"'a' has the data_offsets \[8, 0\]"),
        ({"a": ("F32", [2], [0, True])}, 8, r"data_offsets"),
        ({"a": ("F32", "22", [0, 8])}, 8, r"shape '22'"),
    ],
)
def test_contradicting_offsets_are_an_error(directory: Path, tensors: dict, data: int, message: str) -> None:
    header = {n: dict(zip(("dtype", "shape", "data_offsets"), v, strict=True)) for n, v in tensors.items()}
    raw = json.dumps(header).encode()
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(data))
    with pytest.raises(CorruptCheckpointError, match=message):
        open_checkpoint(directory, OPTIONS)


def test_digests(directory: Path) -> None:
    path = directory / "x"
    path.write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    pieces: list[int] = []
    assert sha256_of_file(path, progress=pieces.append) == expected and sum(pieces) == 3
    assert sha256_of_files([path], root=directory) == {"x": expected}
    with pytest.raises(CheckpointNotFoundError, match="gone"):
        sha256_of_file(directory / "gone")
