"""Files that a checkpoint or an export names, or links to, must be inside its directory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxport
from onnxport.bundles.manifest import FILE_NAME, ComponentDescription, Manifest, TensorDescription
from onnxport.checkpoint.checkpoint import open_checkpoint
from onnxport.containment import check_links, files_inside, inside
from onnxport.errors import CorruptCheckpointError, OnnxportError
from onnxport.loading.preprocessors import check_audio_tokenizer
from onnxport.onnx.utils import get_preprocessor
from onnxport.options import ExportOptions
from onnxport.runtime.bench import Workload, bench
from onnxport.runtime.directory import Directory
from onnxport.runtime.settings import RunSettings
from onnxport.validation.mapped import open_mapped
from tests.unit.test_sentence_modules import DENSE, OLD, make

OUTSIDE = ("../secret", "a/../../secret", "/etc/hostname", "C:\\secret", "..\\secret", "\\\\host\\share", "", "x\0y")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("private")
    (tmp_path / "dir").mkdir()
    return tmp_path / "dir"


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_path_to_a_file_outside(directory: Path, name: str) -> None:
    with pytest.raises(CorruptCheckpointError, match=r"index\.json names"):
        inside(directory, name, directory / "index.json")


@pytest.mark.parametrize("target", ["../secret", "loop"])
def test_a_link_to_a_file_outside(directory: Path, target: str) -> None:
    (directory / "loop").symlink_to(target)
    with pytest.raises(CorruptCheckpointError, match="link"):
        inside(directory, "loop")


def test_links_within_the_directory_and_to_it(directory: Path) -> None:
    (directory / "sub").mkdir()
    (directory / "sub" / "file").write_text("own")
    (directory / "link").symlink_to("sub/file")
    (directory.parent / "alias").symlink_to(directory)
    alias = directory.parent / "alias"
    assert inside(alias, "link") == alias / "link"
    assert files_inside(alias, "*", "sub/*") == [alias / "link", alias / "sub" / "file"]
    (directory / "broken").symlink_to("nothing")
    (directory / "logs").symlink_to(directory.parent)  # nothing in it is read
    check_links(directory)


@pytest.mark.parametrize("part", ["", "1_Dense"])
def test_a_snapshot_links_to_its_own_blobs_only(tmp_path: Path, part: str) -> None:
    snapshot = tmp_path / "hub" / "models--o--n" / "snapshots" / ("0" * 40) / part
    snapshot.mkdir(parents=True)
    for repository in ("models--o--n", "models--o--other"):
        (tmp_path / "hub" / repository / "blobs").mkdir(parents=True)
        (tmp_path / "hub" / repository / "blobs" / "1").write_text("{}")
    (snapshot / "own").symlink_to(tmp_path / "hub" / "models--o--n" / "blobs" / "1")
    (snapshot / "other").symlink_to(tmp_path / "hub" / "models--o--other" / "blobs" / "1")
    inside(snapshot, "own")
    with pytest.raises(CorruptCheckpointError, match="outside"):
        inside(snapshot, "other")


def test_a_blobs_directory_that_is_a_link(tmp_path: Path) -> None:
    """An archive may contain a repository of the hub's cache, with a link instead of the directory of blobs."""
    snapshot = tmp_path / "hub" / "models--o--n" / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "secret").write_text("private")
    (tmp_path / "hub" / "models--o--n" / "blobs").symlink_to(tmp_path / "home")
    (snapshot / "LICENSE").symlink_to("../../blobs/secret")
    with pytest.raises(CorruptCheckpointError, match="outside"):
        check_links(snapshot)


@pytest.mark.parametrize(
    "name",
    ["LICENSE", "README.md", "model.safetensors", "config.json", "vocab.txt", "chat_template.jinja", "modules.json",
     "generation_config.json", "additional_chat_templates", "additional_chat_templates/tools.jinja",
     "1_Pooling/config.json", "2_Dense", "2_Dense/config.json", "2_Dense/model.safetensors", "2_Dense/README.md"],
)  # fmt: skip
def test_a_checkpoint_that_links_to_other_files(tmp_path: Path, name: str) -> None:
    """Such a file is neither read nor copied, whatever its purpose."""
    pooling = (f"{OLD}Pooling", {"pooling_mode_mean_tokens": True})
    root = make(tmp_path / "checkpoint", [pooling, (f"{OLD}Dense", DENSE)])
    open_checkpoint(root, ExportOptions())
    path = root / name
    path.parent.mkdir(exist_ok=True)
    if path.exists():
        path.rename(tmp_path / "elsewhere")
    elif path.name == "additional_chat_templates":
        (tmp_path / "elsewhere").mkdir()
    else:
        (tmp_path / "elsewhere").write_text("private")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptCheckpointError, match="outside"):
        open_checkpoint(root, ExportOptions())


def test_the_files_beside_a_gguf_file(tmp_path: Path) -> None:
    from onnxport.bundles.side_files import side_files

    (tmp_path / "secret").write_text("private")
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "LICENSE").symlink_to(tmp_path / "secret")
    with pytest.raises(CorruptCheckpointError, match="outside"):
        side_files(tmp_path / "dir")


def write_export(directory: Path, location: str = "", *, file: str = "model.onnx", data: tuple[str, ...] = ()) -> Path:
    """Write a directory as an export does, with a graph that adds a weight, stored in `location`."""
    directory.mkdir(parents=True, exist_ok=True)
    weight = numpy_helper.from_array(np.ones(1024, dtype=np.float32), "w")
    if location:
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, "offset": "0", "length": "4096"}.items():
            weight.external_data.add(key=key, value=value)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1024]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", values[:1], values[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (directory / "model.onnx").write_bytes(model.SerializeToString())
    component = ComponentDescription(
        "model", file, data, 20, 1024, 1, (TensorDescription("x", "float32", ("batch_size", 1024)),), ()
    )
    source = {"model": "m/m", "revision": None, "architecture": "BertModel", "model_type": "bert"}
    options = {"dtype": "fp32"}
    text = Manifest("feature-extraction", source, options, {}, (component,), {"status": "passed"}).to_json()
    (directory / FILE_NAME).write_text(text)
    (directory / "config.json").write_text('{"model_type": "bert"}')
    return directory


OPENERS: dict[str, Callable[[Path], object]] = {
    "load": onnxport.load,
    "validate": lambda path: onnxport.validate(path, "reference"),
    "bench": lambda path: bench(path, Workload(), RunSettings()),
    "directory": lambda path: Directory(path).graph("model"),  # as in run and chat
}


@pytest.mark.parametrize("opener", OPENERS)
def test_a_manifest_that_names_other_files(directory: Path, opener: str) -> None:
    elsewhere = write_export(directory.parent / "elsewhere") / "model.onnx"
    linked = write_export(directory / "linked", file="other.onnx")
    (linked / "other.onnx").symlink_to(elsewhere)
    exports = [
        linked,
        write_export(directory / "upwards", file="../../elsewhere/model.onnx"),
        write_export(directory / "absolute", file=str(elsewhere)),
        write_export(directory / "data", data=("../../elsewhere/model.onnx",)),
    ]
    for export in exports:
        with pytest.raises(CorruptCheckpointError, match=r"onnxport\.json names .*outside"):
            OPENERS[opener](export)


@pytest.mark.parametrize("opener", ["load", "bench", "directory"])
def test_an_export_that_links_to_other_files(directory: Path, opener: str) -> None:
    for name in ("config.json", "tokenizer.json", "chat_template.jinja", FILE_NAME):
        export = write_export(directory / name.partition(".")[0])
        (export / name).unlink(missing_ok=True)
        (export / name).symlink_to(directory.parent / "secret")
        with pytest.raises(CorruptCheckpointError, match="outside"):
            OPENERS[opener](export)


@pytest.mark.parametrize("values", [None, 3, ["model.onnx"], {"a": 1}])
def test_a_name_that_is_no_string(directory: Path, values: object) -> None:
    path = write_export(directory) / FILE_NAME
    manifest = json.loads(path.read_text())
    manifest["components"][0]["file"] = values
    path.write_text(json.dumps(manifest))
    with pytest.raises(CorruptCheckpointError, match=r"components\[0\]\.file is .*, not a string"):
        Directory(directory)


@pytest.mark.parametrize("location", ["../weights", "link", "absolute"])
def test_external_data_outside_is_neither_read_nor_measured(directory: Path, location: str) -> None:
    weights = directory.parent / "weights"
    weights.write_bytes(bytes(4096))
    (directory / "link").symlink_to(weights)
    export = write_export(directory, str(weights) if location == "absolute" else location)
    with pytest.raises(CorruptCheckpointError, match=r"model\.onnx names .*outside") as caught:
        onnxport.inspect(export)
    assert "4096" not in str(caught.value)
    with pytest.raises(OnnxportError):
        Directory(export).graph("model")
    with pytest.raises(OnnxportError):
        open_mapped(export / "model.onnx")


def test_a_graph_that_links_to_another_directory(directory: Path) -> None:
    elsewhere = write_export(directory.parent / "elsewhere")
    os.symlink(elsewhere / "model.onnx", directory / "model.onnx")
    with pytest.raises(CorruptCheckpointError, match="outside"):
        onnxport.inspect(directory)


@pytest.mark.parametrize("name", ["processor_config.json", "audio_tokenizer_config.json"])
def test_an_audio_tokenizer_outside(directory: Path, name: str) -> None:
    def write(path: str) -> None:
        settings = {"audio_tokenizer_class": "DacModel", "audio_tokenizer_name_or_path": path}
        nested = {"audio_tokenizer": settings} if name == "processor_config.json" else settings
        (directory / name).write_text(json.dumps(nested))

    for path in ("owner/name", str(directory), str(directory / "codec")):
        write(path)
        check_audio_tokenizer(directory)
    write(str(directory.parent))
    with pytest.raises(CorruptCheckpointError, match=r"_config\.json names .* outside"):
        check_audio_tokenizer(directory)
    with pytest.raises(CorruptCheckpointError, match=r"_config\.json names .* outside"):
        get_preprocessor(str(directory))
