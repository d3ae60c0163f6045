"""`onnxport verify`: a directory is as it was exported, complete, well-formed, and runs; without torch."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import onnxport
from onnxport.bundles.manifest import FILE_NAME
from onnxport.cli import main
from onnxport.errors import CheckpointError, OptionError
from onnxport.options import ExportOptions
from onnxport.runtime import verify as verification
from onnxport.runtime.signature import SIGNATURE, Signer
from onnxport.runtime.verify import verify
from tests.sigstore_instance import Sigstore
from tests.unit.test_containment import write_export


@pytest.fixture(scope="module")
def exported(gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("verify") / "out"
    onnxport.export(gpt2, output, ExportOptions(validate="quick", external_data="always", dtype="fp32,q4"))
    return output


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def test_an_export_is_verified_without_torch(exported: Path) -> None:
    code = (
        "import sys; from onnxport.cli import main; code = main(['verify', sys.argv[1], '--json']);"
        "sys.exit(code or bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(exported)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    digest = hashlib.sha256((exported / FILE_NAME).read_bytes()).hexdigest()
    assert result == {
        "manifest_sha256": digest,
        "problems": [],
        "files": len(list(exported.iterdir())) - 1,
        "without_digest": [],
        "not_run": {},
    }
    assert verify(exported, digest.upper()).problems == ()


def test_digests_are_those_of_the_files(exported: Path) -> None:
    manifest = json.loads((exported / FILE_NAME).read_text())
    names = {path.name for path in exported.iterdir()} - {FILE_NAME}
    assert manifest["digests"] == {
        name: hashlib.sha256((exported / name).read_bytes()).hexdigest() for name in sorted(names)
    }


def flip(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights": (lambda path: flip(path / "model.onnx_data"), "model.onnx_data was changed"),
    "tokenizer": (lambda path: flip(path / "tokenizer.json"), "tokenizer.json was changed"),
    "added file": (lambda path: (path / "generation.json").write_text("{}"), "generation.json isn't in"),
    "added code": (lambda path: (path / "modeling.py").write_text(""), "modeling.py isn't in"),
    "missing file": (lambda path: (path / "config.json").unlink(), "config.json is missing"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_directory_that_was_changed(copy: Path, change: str) -> None:
    make, message = CHANGES[change]
    make(copy)
    problems = verify(copy).problems
    assert len(problems) == 1
    assert problems[0].startswith(message)


def rewrite(directory: Path, **changes: object) -> None:
    """Change the manifest, with the digests of the files as they are: the author of a directory can do that."""
    file = directory / FILE_NAME
    names = [path.name for path in directory.iterdir() if path.name != FILE_NAME]
    digests = {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in names}
    file.write_text(json.dumps({**json.loads(file.read_text()), "digests": digests, **changes}))


def test_a_changed_manifest_has_another_digest(copy: Path) -> None:
    digest = verify(copy).manifest_sha256
    rewrite(copy, task="feature-extraction")
    (problem,) = verify(copy, digest).problems
    assert "onnxport.json has the SHA-256" in problem


IDENTITY, ISSUER = "publisher@example.com", "https://login.example.com"


@pytest.fixture(scope="module")
def sigstore(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sigstore, Path]:
    """Return an instance of Sigstore, and the file with its keys."""
    instance = Sigstore()
    return instance, instance.trusted_root(tmp_path_factory.mktemp("sigstore") / "trusted_root.json")


def test_a_signed_directory(copy: Path, sigstore: tuple[Sigstore, Path], capsys: pytest.CaptureFixture[str]) -> None:
    instance, root = sigstore
    instance.sign(copy / FILE_NAME, IDENTITY, ISSUER)
    result = verify(copy, signer=Signer(IDENTITY, ISSUER, root))
    assert (result.problems, result.without_digest) == ((), ())
    assert verify(copy).problems == ()
    options = ["--identity", IDENTITY, "--issuer", ISSUER, "--trusted-root", str(root)]
    assert main(["verify", str(copy), *options]) == 0
    assert f"signed by {IDENTITY}" in capsys.readouterr().out


@pytest.mark.parametrize("who", [("other@example.com", ISSUER), (IDENTITY, "https://other.example.com")])
def test_a_directory_that_someone_else_signed(
    who: tuple[str, str], copy: Path, sigstore: tuple[Sigstore, Path]
) -> None:
    instance, root = sigstore
    instance.sign(copy / FILE_NAME, *who)
    (problem,) = verify(copy, signer=Signer(IDENTITY, ISSUER, root)).problems
    assert f"isn't a signature of onnxport.json by {IDENTITY}" in problem


def test_a_directory_that_was_changed_after_it_was_signed(copy: Path, sigstore: tuple[Sigstore, Path]) -> None:
    instance, root = sigstore
    instance.sign(copy / FILE_NAME, IDENTITY, ISSUER)
    signer = Signer(IDENTITY, ISSUER, root)
    flip(copy / "model.onnx_data")
    assert [problem[:26] for problem in verify(copy, signer=signer).problems] == ["model.onnx_data was change"]
    signature = (copy / SIGNATURE).read_bytes()
    (copy / SIGNATURE).unlink()
    rewrite(copy)
    (copy / SIGNATURE).write_bytes(signature)
    (problem,) = verify(copy, signer=signer).problems
    assert "isn't a signature of onnxport.json" in problem


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[1]", b"\xff", b"{" * 100_000, b" " * (2 << 20)])
def test_a_signature_that_is_none(content: bytes | None, copy: Path, sigstore: tuple[Sigstore, Path]) -> None:
    if content is not None:
        (copy / SIGNATURE).write_bytes(content)
    (problem,) = verify(copy, signer=Signer(IDENTITY, ISSUER, sigstore[1])).problems
    assert problem.startswith(SIGNATURE)


def test_another_instance_of_sigstore(copy: Path, sigstore: tuple[Sigstore, Path], tmp_path: Path) -> None:
    Sigstore().sign(copy / FILE_NAME, IDENTITY, ISSUER)
    for root in (sigstore[1], None):  # None: the public instance, without the network
        (problem,) = verify(copy, signer=Signer(IDENTITY, ISSUER, root)).problems
        assert "isn't a signature of onnxport.json" in problem
    for name, content in (("missing", None), ("empty", "{}"), ("text", "keys")):
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(OptionError, match=f"the trusted root .*{name} can't be read"):
            verify(copy, signer=Signer(IDENTITY, ISSUER, tmp_path / name))


def test_an_identity_without_its_issuer(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["--identity", IDENTITY], ["--issuer", ISSUER], ["--trusted-root", "x"]):
        assert main(["verify", str(copy), *options]) == 2
        assert "--identity and --issuer: pass both" in capsys.readouterr().err


def test_a_directory_without_digests(copy: Path) -> None:
    rewrite(copy, digests={})
    (copy / "mine.onnx_adapter").write_bytes(b"")
    result = verify(copy)
    assert (result.problems, result.files) == ((), 0)
    assert {"model.onnx", "mine.onnx_adapter"} <= set(result.without_digest)


def test_linked_weights(bert: Path, tmp_path: Path) -> None:
    """The checker of ONNX refuses hard links."""
    onnxport.export(bert, tmp_path / "out", ExportOptions(validate="none", weights="link"))
    result = verify(tmp_path / "out")
    assert (result.problems, result.without_digest) == ((), ("model.safetensors",))


def graph_of(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def endless() -> onnx.ModelProto:
    """Return a graph whose loop takes years."""
    true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    state = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("a", "b")]
    body = helper.make_graph(
        [helper.make_node("Sin", ["a"], ["b"]), helper.make_node("Identity", ["c"], ["d"])],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []),
         helper.make_tensor_value_info("c", TensorProto.BOOL, []), state[0]],
        [helper.make_tensor_value_info("d", TensorProto.BOOL, []), state[1]],
    )  # fmt: skip
    model = graph_of(helper.make_node("Loop", ["", "true", "x"], ["y"], body=body))
    model.graph.initializer.append(true)
    return model


def huge() -> onnx.ModelProto:
    """Return a graph that allocates more than any machine has."""
    model = graph_of(
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    )
    model.graph.initializer.append(helper.make_tensor("size", TensorProto.INT64, [1], [2**40]))
    return model


def write_graph(directory: Path, model: onnx.ModelProto, input_name: str = "x") -> Path:
    """Write an export of a graph from x to y, with a manifest of the files as they are."""
    write_export(directory)
    onnx.save_model(model, str(directory / "model.onnx"))
    component = json.loads((directory / FILE_NAME).read_text())["components"][0]
    component["inputs"] = [{"name": input_name, "dtype": "float32", "axes": ["n"]}]
    component["outputs"] = [{"name": "y", "dtype": "float32", "axes": ["n"]}]
    rewrite(directory, components=[component], files=["config.json"])
    return directory


def test_a_graph_without_kernels_is_not_run(tmp_path: Path) -> None:
    """ONNX Runtime's CPU provider has no bfloat16 kernels."""
    cast = [helper.make_node("Cast", ["x"], ["a"], to=TensorProto.BFLOAT16), helper.make_node("Add", ["a", "a"], ["b"])]
    model = graph_of(*cast, helper.make_node("Cast", ["b"], ["y"], to=TensorProto.FLOAT))
    result = verify(write_graph(tmp_path / "out", model))
    assert result.problems == ()
    assert "NOT_IMPLEMENTED" in result.not_run[""]


GRAPHS: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "endless": (endless, "didn't load and run"),
    "huge": (huge, "ONNX Runtime can't|failed"),
    "other inputs": (lambda: graph_of(helper.make_node("Sin", ["x"], ["y"])), "the inputs of model.onnx are"),
    "unknown operator": (lambda: graph_of(helper.make_node("Sinus", ["x"], ["y"])), "well-formed|inputs"),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_that_is_hostile(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "_SECONDS", 5)
    make, message = GRAPHS[name]
    input_name = "input_ids" if name == "other inputs" else "x"
    problems = verify(write_graph(tmp_path / "out", make(), input_name)).problems
    assert problems
    assert any(part in problems[0] for part in message.split("|")), problems


def test_modules_in_the_directory_are_not_imported(copy: Path, tmp_path: Path) -> None:
    manifest = json.loads((copy / FILE_NAME).read_text())
    for name in ("json.py", "numpy.py", "onnxruntime.py"):
        (copy / name).write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
        manifest["digests"][name] = hashlib.sha256((copy / name).read_bytes()).hexdigest()
        manifest["files"].append(name)
    (copy / FILE_NAME).write_text(json.dumps(manifest))
    command = [sys.executable, "-P", "-m", "onnxport", "verify", "."]  # as the script `onnxport` is run
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "imported").exists()


def test_a_directory_that_is_no_export(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such directory"):
        verify(tmp_path / "none")
