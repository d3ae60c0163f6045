"""The reference of a validation: a manifest may name it, but runs no code and downloads nothing."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import onnxport
from onnxport.bundles.manifest import Manifest
from onnxport.checkpoint.checkpoint import open_checkpoint
from onnxport.cli import main
from onnxport.errors import CheckpointNotFoundError, CorruptCheckpointError, OptionError, UntrustedCodeError
from onnxport.options import ExportOptions
from onnxport.validation.reference import choose_reference
from tests.unit.test_checkpoint import write_safetensors
from tests.unit.test_containment import write_export

COMMIT = "c" * 40


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def cache(tmp_path: Path) -> str:
    """A cache of the hub with one repository."""
    snapshot = tmp_path / "cache" / "models--owner--cached" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    return str(tmp_path / "cache")


@pytest.fixture
def adapter(tmp_path: Path) -> Callable[..., Path]:
    """Write an adapter of a base."""

    def write(base: str, revision: object = None) -> Path:
        directory = tmp_path / "adapter"
        directory.mkdir()
        settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "bias": "none", "base_model_name_or_path": base}
        (directory / "adapter_config.json").write_text(json.dumps({**settings, "revision": revision}))
        factors = {"x.lora_A.weight": [2, 4], "x.lora_B.weight": [4, 2]}
        write_safetensors(directory / "adapter_model.safetensors", factors)
        return directory

    return write


def manifest(model: object, revision: object = None, merged: object = None, **options: Any) -> Manifest:
    source = {"model": model, "revision": revision, "adapter": merged}
    return Manifest("fill-mask", source, {"dtype": "fp32", **options}, {}, (), {})


def chosen(found: Manifest, named: str | None = None, **options: Any) -> tuple[str, ExportOptions]:
    reference = choose_reference(Path("out"), found, named, ExportOptions(**options))
    return str(reference.model), reference.options


def test_a_local_directory_is_read(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    model, options = chosen(manifest(str(tmp_path), framework="tf", adapter=str(adapter)))
    assert model == str(tmp_path)
    assert (options.framework, options.adapter) == ("tf", str(adapter))


def test_a_snapshot_in_the_cache_is_read(cache: str) -> None:
    snapshot = Path(cache) / "models--owner--cached" / "snapshots" / COMMIT
    assert chosen(manifest("owner/cached", COMMIT), cache_dir=cache)[0] == str(snapshot)
    source = {"model": "owner/cached", "revision": COMMIT, "base": cache}
    _, options = chosen(manifest(cache, None, source, adapter="owner/cached"), cache_dir=cache)
    assert options.adapter == str(snapshot)


@pytest.mark.parametrize("revision", [COMMIT, "main", "../../../models--owner--cached/snapshots/" + COMMIT, ["x"]])
@pytest.mark.parametrize("model", ["owner/other", "../owner/cached", "owner/cached/../other"])
def test_nothing_is_downloaded_for_a_manifest(cache: str, model: str, revision: object) -> None:
    with pytest.raises(
        CheckpointNotFoundError, match=r"isn't in its cache; it is downloaded if you name it: --reference"
    ):
        chosen(manifest(model, revision), cache_dir=cache)
    with pytest.raises(CheckpointNotFoundError, match=r"the adapter .* downloaded if you name it: --adapter"):
        chosen(manifest(cache, None, {"revision": revision}, adapter=model), cache_dir=cache)


def test_a_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"no such path exists; name it with --reference"):
        chosen(manifest(str(tmp_path / "gone")))
    with pytest.raises(CheckpointNotFoundError, match=r"no such path exists; name it with --adapter"):
        chosen(manifest(str(tmp_path), adapter="gone"))


def test_the_command_of_a_message_can_be_copied() -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"--reference 'a; touch b' --revision"):
        chosen(manifest("a; touch b", COMMIT))


@pytest.mark.parametrize("model", [None, "", 5, ["a"]])
def test_a_manifest_without_a_checkpoint(model: object) -> None:
    with pytest.raises(CorruptCheckpointError, match=r"source\.model is"):
        chosen(manifest(model))


@pytest.mark.parametrize("named", [None, "owner/mine"])
def test_a_description_runs_if_the_caller_names_it(tmp_path: Path, named: str | None) -> None:
    found = manifest(str(tmp_path), description="README.py")
    with pytest.raises(UntrustedCodeError, match=r"'README\.py', a Python file .*pass --description"):
        chosen(found, named)
    assert chosen(found, named, description="mine.py")[1].description == "mine.py"


def test_only_code_of_a_checkpoint_that_the_caller_names_is_trusted(tmp_path: Path) -> None:
    found = manifest(str(tmp_path), trust_remote_code=True)
    assert not chosen(found)[1].trust_remote_code
    with pytest.raises(OptionError, match="name it yourself, if you trust it: --reference"):
        chosen(found, trust_remote_code=True)
    assert chosen(found, "owner/mine", trust_remote_code=True)[1].trust_remote_code


def test_the_callers_arguments_take_precedence(tmp_path: Path) -> None:
    model, options = chosen(manifest("owner/other", COMMIT, adapter="x", framework="tf"), "owner/mine", revision="v1")
    assert (model, options.revision, options.adapter, options.framework) == ("owner/mine", "v1", None, None)


def test_the_command_runs_no_file_that_a_manifest_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = write_export(tmp_path / "out")
    ran = tmp_path / "ran"
    (directory / "README.py").write_text(f"open({str(ran)!r}, 'w')")
    file = directory / "onnxport.json"
    file.write_text(file.read_text().replace('"dtype": "fp32"', '"dtype": "fp32", "description": "out/README.py"'))
    file.write_text(file.read_text().replace('"m/m"', f'"{tmp_path}"'))
    monkeypatch.chdir(tmp_path)
    assert main(["validate", "out", "--quiet"]) == 1
    assert "--description" in capsys.readouterr().err
    with pytest.raises(UntrustedCodeError):
        onnxport.validate(directory)
    assert not ran.exists()


@pytest.mark.parametrize("revision", [None, "main", "../../x", ["main"]])
def test_nothing_is_downloaded_for_an_adapter(cache: str, adapter: Callable[..., Path], revision: object) -> None:
    directory = adapter("owner/other", revision)
    with pytest.raises(CheckpointNotFoundError, match=r"to download it, pass owner/other as MODEL, and --adapter"):
        open_checkpoint(directory, ExportOptions(cache_dir=cache))


def test_the_base_of_an_adapter_is_found_in_the_cache(cache: str, adapter: Callable[..., Path]) -> None:
    snapshot = Path(cache) / "models--owner--cached" / "snapshots" / COMMIT
    (snapshot / "config.json").write_text('{"model_type": "bert"}')
    write_safetensors(snapshot / "model.safetensors", {"a": [2]})
    found = open_checkpoint(adapter("owner/cached", COMMIT), ExportOptions(cache_dir=cache))
    assert found.directory == snapshot
    assert found.adapter is not None and found.adapter.base == "owner/cached"


def test_an_adapter_does_not_choose_whose_code_runs(tmp_path: Path, adapter: Callable[..., Path]) -> None:
    with pytest.raises(OptionError, match="pass the base model as MODEL"):
        open_checkpoint(adapter(str(tmp_path)), ExportOptions(trust_remote_code=True))


def test_a_manifest_without_a_dtype_is_damaged(tmp_path: Path) -> None:
    directory = write_export(tmp_path / "out")
    file = directory / "onnxport.json"
    file.write_text(file.read_text().replace('"dtype": "fp32"', '"opset": 20'))
    with pytest.raises(CorruptCheckpointError, match=r"onnxport\.json is damaged: options\.dtype is missing"):
        onnxport.validate(directory)
