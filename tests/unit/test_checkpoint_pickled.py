"""Check pickled checkpoints: no code is executed, and errors name the code that would be executed."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from onnxport.checkpoint.checkpoint import open_checkpoint
from onnxport.checkpoint.pickled import check_pickled, scan_pickle
from onnxport.errors import CheckpointError, CorruptCheckpointError, UntrustedCodeError
from onnxport.loading.tensors import read_state
from onnxport.options import ExportOptions

torch = pytest.importorskip("torch")
OPTIONS = ExportOptions()


class Bomb:
    """Make a directory when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    return tmp_path


def state() -> dict[str, Any]:
    return {"a": torch.arange(6.0).reshape(2, 3), "b": torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))}


@pytest.mark.parametrize("is_zip", [True, False])
def test_reads_tensors(directory: Path, is_zip: bool) -> None:
    path = directory / "pytorch_model.bin"
    torch.save(state(), path, _use_new_zipfile_serialization=is_zip)
    checkpoint = open_checkpoint(directory, OPTIONS)
    assert checkpoint.format == "pytorch"
    assert {"a", "b"} <= (check_pickled(path) or set())
    found = read_state(checkpoint)
    assert torch.equal(found["a"], state()["a"]) and found["b"].dtype == torch.bfloat16


def test_a_pickle_protocol_that_torch_does_not_support_is_named(directory: Path) -> None:
    path = directory / "pytorch_model.bin"
    torch.save(state(), path, pickle_protocol=4)
    assert {"a", "b"} <= (check_pickled(path) or set())
    with pytest.raises(CorruptCheckpointError, match="pickle protocol above 2") as caught:
        read_state(open_checkpoint(directory, OPTIONS))
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_code_is_named_and_not_run(directory: Path, is_zip: bool, protocol: int) -> None:
    target = directory / "was executed"
    content = {**state(), "x": Bomb(target)}
    torch.save(
        content, directory / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip, pickle_protocol=protocol
    )
    with pytest.raises(UntrustedCodeError, match=r"would call (posix|nt)\.mkdir"):
        open_checkpoint(directory, OPTIONS)
    assert not target.exists()


def test_a_plain_pickle_is_scanned_too(directory: Path) -> None:
    target = directory / "was executed"
    (directory / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Bomb(target)}))
    with pytest.raises(UntrustedCodeError, match="mkdir"):
        open_checkpoint(directory, OPTIONS)
    assert not target.exists()


def test_a_name_computed_on_the_stack_is_refused() -> None:
    # "os", "system" reach STACK_GLOBAL through the memo, with a NONE in between: the scanner can't resolve it.
    raw = pickle.PROTO + b"\x04" + b"\x8c\x02os" + b"\x94" + b"N" + b"\x93" + b"."
    assert scan_pickle(io.BytesIO(raw)).globals == {"a name computed while unpickling"}


def test_only_torch_reads_an_old_tar(directory: Path) -> None:
    path = directory / "pytorch_model.bin"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        member = tarfile.TarInfo("storages")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
    assert check_pickled(path) is None
    with pytest.raises(CheckpointError):
        read_state(open_checkpoint(directory, OPTIONS))


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("keep", [0.02, 0.5, 0.98])
def test_a_truncated_file_is_an_error(directory: Path, is_zip: bool, keep: float) -> None:
    path = directory / "pytorch_model.bin"
    torch.save({"a": torch.zeros(5000)}, path, _use_new_zipfile_serialization=is_zip)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * keep)])
    with pytest.raises(CorruptCheckpointError, match=r"pytorch_model\.bin"):
        read_state(open_checkpoint(directory, OPTIONS))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"garbage!garbage!", "neither a zip file nor a pickle"),
        (b"\x80\x02garbage", "damaged"),
        (b"\x80\x04\x8d" + b"\xff" * 8, "damaged"),
        (b"PK\x03\x04garbage", "truncated or damaged"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_an_error(directory: Path, content: bytes, message: str) -> None:
    (directory / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(CorruptCheckpointError, match=message):
        open_checkpoint(directory, OPTIONS)


def test_a_zip_without_pickle_is_an_error(directory: Path) -> None:
    with zipfile.ZipFile(directory / "pytorch_model.bin", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(CorruptCheckpointError, match=r"0 members named data\.pkl"):
        open_checkpoint(directory, OPTIONS)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {}, {1: 2}])
def test_an_object_that_is_no_state_dict_is_an_error(directory: Path, content: Any) -> None:
    torch.save(content, directory / "pytorch_model.bin")
    with pytest.raises(CorruptCheckpointError, match=r"not a (tensor|state dict)|no tensors"):
        read_state(open_checkpoint(directory, OPTIONS))


def test_index_of_pickled_shards(directory: Path) -> None:
    torch.save({"a": torch.zeros(2)}, directory / "pytorch_model-00001-of-00001.bin")
    index = directory / "pytorch_model.bin.index.json"
    index.write_text('{"weight_map": {"a": "pytorch_model-00001-of-00001.bin"}}')
    assert set(read_state(open_checkpoint(directory, OPTIONS))) == {"a"}
    index.write_text('{"weight_map": {"z": "pytorch_model-00001-of-00001.bin"}}')
    with pytest.raises(CorruptCheckpointError, match="tensor 'z'"):
        open_checkpoint(directory, OPTIONS)
