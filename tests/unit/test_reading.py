"""The inventory of a checkpoint, and changes that its reader detects."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from onnxport.checkpoint.reading import Reader, list_tensors
from onnxport.errors import CheckpointNotFoundError, CorruptCheckpointError
from onnxport.weights.expressions import ByteRange
from tests.unit.weights_files import checkpoint

WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_the_inventory_has_the_byte_range_of_every_tensor(tmp_path: Path) -> None:
    half = WEIGHT.astype(ml_dtypes.bfloat16)
    inventory, reader = checkpoint(tmp_path, a={"x": WEIGHT, "y": half}, b={"z": np.array(7, np.int64)})
    with reader:
        for name, expected in {"x": WEIGHT, "y": half, "z": np.array(7, np.int64)}.items():
            found = inventory.tensors[name].evaluate(reader)
            assert found.dtype == expected.dtype and found.shape == expected.shape
            np.testing.assert_array_equal(found, expected)
        reader.verify()
    assert inventory.tensors["z"].file == "b.safetensors"
    assert inventory.tensors["y"].dtype == ir.DataType.BFLOAT16


def test_a_tensor_in_two_shards_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorruptCheckpointError, match=r"'x' is in a.safetensors and in b.safetensors"):
        checkpoint(tmp_path, a={"x": WEIGHT}, b={"x": WEIGHT})


def rewrite(path: Path) -> None:
    """Write into a file in place, with a later modification time: clocks of file systems are coarse."""
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\1\2\3\4")
    later = path.stat().st_mtime_ns + 1_000_000
    os.utime(path, ns=(later, later))


def replace(path: Path) -> None:
    shutil.copy2(path, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "rewritten": (rewrite, "it was modified"),
    "replaced": (replace, "it was replaced by another file"),
    "truncated": (lambda path: os.truncate(path, path.stat().st_size - 8), "it had .* bytes, now it has"),
    "lengthened": (lambda path: os.truncate(path, path.stat().st_size + 8), "it had .* bytes, now it has"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_before_the_file_is_opened_is_detected(change: str, tmp_path: Path) -> None:
    inventory, reader = checkpoint(tmp_path, a={"x": WEIGHT})
    act, message = CHANGES[change]
    act(tmp_path / "a.safetensors")
    with reader, pytest.raises(CorruptCheckpointError, match=message):
        inventory.tensors["x"].evaluate(reader)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_after_the_last_read_is_detected(change: str, tmp_path: Path) -> None:
    inventory, reader = checkpoint(tmp_path, a={"x": WEIGHT})
    act, message = CHANGES[change]
    with reader:
        inventory.tensors["x"].evaluate(reader)
        act(tmp_path / "a.safetensors")
        with pytest.raises(CorruptCheckpointError, match=f"changed while it was read .*{message}"):
            reader.verify()


def test_a_truncated_file_is_detected_immediately(tmp_path: Path) -> None:
    inventory, reader = checkpoint(tmp_path, a={"x": WEIGHT})
    with reader:
        reader.read(ByteRange("a.safetensors", 0, 8))
        os.truncate(tmp_path / "a.safetensors", inventory.tensors["x"].end - 1)
        with pytest.raises(CorruptCheckpointError, match="truncated while it was read"):
            inventory.tensors["x"].evaluate(reader)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    inventory, reader = checkpoint(tmp_path, a={"x": WEIGHT})
    (tmp_path / "a.safetensors").unlink()
    with reader, pytest.raises(CheckpointNotFoundError, match="No such file"):
        inventory.tensors["x"].evaluate(reader)


def test_files_are_opened_once_and_closed(tmp_path: Path) -> None:
    inventory, _ = checkpoint(tmp_path, a={"x": WEIGHT})
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else None
    with Reader(tmp_path, inventory.files) as reader:
        assert reader.descriptor("a.safetensors") == reader.descriptor("a.safetensors")
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_type_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    checkpoint(tmp_path, a={"x": WEIGHT})
    path = tmp_path / "a.safetensors"
    path.write_bytes(
        path.read_bytes().replace(b'"F32"', b'"U32"').replace(b'"U32"', b'"C64"').replace(b"[3,4]", b"[3,2]")
    )
    with pytest.raises(KeyError, match="C64"):
        list_tensors(tmp_path, [path])
