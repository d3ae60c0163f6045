"""Open repositories of a hub server in this process, on 127.0.0.1: the downloaded files, and the errors."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from onnxport.checkpoint import checkpoint as checkpoint_module
from onnxport.checkpoint.checkpoint import open_checkpoint
from onnxport.checkpoint.hub import choose_files, fetch_snapshot, looks_like_repository
from onnxport.errors import CheckpointNotFoundError, CorruptCheckpointError
from onnxport.options import ExportOptions
from tests.unit.test_checkpoint import write_safetensors

MAIN, OLD = "a" * 40, "b" * 40


@dataclass
class Hub:
    """Serve repositories: name → commit → file → bytes."""

    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=lambda: {"main": MAIN, MAIN: MAIN, "v1": OLD, OLD: OLD})
    tokens: dict[str, str] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    served: list[str] = field(default_factory=list)
    status: int | None = None
    endpoint: str = ""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: Hub, *args: Any) -> None:
        self.hub = hub
        super().__init__(*args)

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if self.hub.status is not None:
            return self.answer(self.hub.status, b"")
        is_api = parts[:2] == ["api", "models"]
        parts = parts[2:] if is_api else parts
        marks = [i for i, part in enumerate(parts) if part in ("revision", "tree", "resolve")]
        repository = "/".join(parts[: marks[0]] if marks else parts)
        rest = parts[marks[0] :] if marks else ["revision", "main"]
        if refusal := self.refusal(repository):
            return self.answer(refusal[0], b"", {"X-Error-Code": refusal[1], "X-Error-Message": refusal[1]})
        commit = self.hub.refs.get(rest[1])
        if commit is None or commit not in self.hub.repositories[repository]:
            return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        files = self.hub.repositories[repository][commit]
        if is_api:
            return self.answer(200, json.dumps(self.describe(repository, commit, rest[0])).encode())
        name = "/".join(rest[2:])
        if name not in files:
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        if self.command == "GET":
            self.hub.served.append(name)
        etag = hashlib.sha256(files[name]).hexdigest()
        return self.answer(200, files[name], {"ETag": f'"{etag}"', "X-Repo-Commit": commit})

    def refusal(self, repository: str) -> tuple[int, str] | None:
        if repository not in self.hub.repositories:
            return 401, "RepoNotFound"
        if repository in self.hub.gated:
            return 403, "GatedRepo"
        wanted = self.hub.tokens.get(repository)
        return (401, "RepoNotFound") if wanted and self.headers["Authorization"] != f"Bearer {wanted}" else None

    def describe(self, repository: str, commit: str, kind: str) -> Any:
        files = self.hub.repositories[repository][commit]
        if kind == "tree":
            return [
                {"type": "file", "path": name, "size": len(raw), "oid": hashlib.sha1(raw).hexdigest()}
                for name, raw in files.items()
            ]
        return {"id": repository, "sha": commit, "siblings": [{"rfilename": name} for name in files]}

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    served = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, served))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    served.endpoint = f"http://127.0.0.1:{server.server_port}"
    write_safetensors(tmp_path / "weights", {"a": [2]})
    weights = (tmp_path / "weights").read_bytes()
    config = b'{"model_type": "bert"}'
    served.repositories["owner/tiny"] = {
        MAIN: {
            "config.json": config, "model.safetensors": weights, "pytorch_model.bin": b"never", "tf_model.h5": b"never",
            "vocab.txt": b"a\nb", "modeling_x.py": b"1/0", "README.md": b"hello", "onnx/model.onnx": b"never",
            "1_Pooling/config.json": b"{}", "model.onnx": b"never", "optimizer.pt": b"never",
        },
        OLD: {"config.json": b'{"model_type": "gpt2"}', "model.safetensors": weights},
    }  # fmt: skip
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(checkpoint_module, "fetch_snapshot", partial(fetch_snapshot, endpoint=served.endpoint))
    yield served
    server.shutdown()
    server.server_close()


@pytest.fixture
def cache(tmp_path: Path) -> str:
    return str(tmp_path / "cache")


def test_only_the_necessary_files_are_downloaded(hub: Hub, cache: str, capfd: Any) -> None:
    found = open_checkpoint("owner/tiny", ExportOptions(cache_dir=cache))
    assert (found.name, found.revision, found.format, found.model_type) == ("owner/tiny", MAIN, "safetensors", "bert")
    assert sorted(hub.served) == ["config.json", "model.safetensors", "vocab.txt"]
    assert found.directory.is_relative_to(cache) and capfd.readouterr() == ("", "")


def test_code_is_downloaded_only_with_the_flag(hub: Hub, cache: str) -> None:
    open_checkpoint("owner/tiny", ExportOptions(cache_dir=cache, trust_remote_code=True))
    assert "modeling_x.py" in hub.served


@pytest.mark.parametrize("revision", ["v1", OLD])
def test_revision(hub: Hub, cache: str, revision: str) -> None:
    found = open_checkpoint("owner/tiny", ExportOptions(cache_dir=cache, revision=revision))
    assert (found.revision, found.model_type) == (OLD, "gpt2")


def test_an_adapter_and_its_base(hub: Hub, cache: str, tmp_path: Path) -> None:
    write_safetensors(tmp_path / "lora", {"a.lora_A.weight": [1, 2], "a.lora_B.weight": [2, 1]})
    settings = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "base_model_name_or_path": "owner/tiny", "revision": "v1"}
    hub.repositories["owner/lora"] = {
        MAIN: {
            "adapter_config.json": json.dumps(settings).encode(), "training_args.bin": b"never",
            "adapter_model.safetensors": (tmp_path / "lora").read_bytes(), "adapter_model.bin": b"never",
        }
    }  # fmt: skip
    with pytest.raises(CheckpointNotFoundError, match="to download it, pass owner/tiny as MODEL"):
        open_checkpoint("owner/lora", ExportOptions(cache_dir=cache))
    open_checkpoint("owner/tiny", ExportOptions(cache_dir=cache, revision="v1"))
    found = open_checkpoint("owner/lora", ExportOptions(cache_dir=cache))
    assert (found.name, found.revision, found.model_type) == ("owner/lora", MAIN, "gpt2")
    assert found.adapter is not None and found.adapter.base == "owner/tiny"
    assert not [name for name in hub.served if name.endswith(".bin")]
    merged = open_checkpoint("owner/tiny", ExportOptions(cache_dir=cache, adapter="owner/lora"))
    assert (merged.name, merged.revision, merged.model_type) == ("owner/tiny", MAIN, "bert")
    assert merged.adapter is not None and (merged.adapter.name, merged.adapter.revision) == ("owner/lora", MAIN)


def test_unknown_revision(hub: Hub, cache: str) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"owner/tiny: there is no revision 'v9'"):
        open_checkpoint("owner/tiny", ExportOptions(cache_dir=cache, revision="v9"))


def test_unknown_repository(hub: Hub, cache: str) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"owner/gone: neither a local directory nor .*HTTP 401.*--token"):
        open_checkpoint("owner/gone", ExportOptions(cache_dir=cache))


def test_gated_repository(hub: Hub, cache: str) -> None:
    hub.gated.add("owner/tiny")
    with pytest.raises(CheckpointNotFoundError, match=r"owner/tiny: access is gated \(HTTP 403\)"):
        open_checkpoint("owner/tiny", ExportOptions(cache_dir=cache))


def test_token(hub: Hub, cache: str) -> None:
    hub.tokens["owner/tiny"] = "hf_secret"
    with pytest.raises(CheckpointNotFoundError) as caught:
        open_checkpoint("owner/tiny", ExportOptions(cache_dir=cache, token="hf_wrong"))
    assert "hf_wrong" not in str(caught.value)
    assert open_checkpoint("owner/tiny", ExportOptions(cache_dir=cache, token="hf_secret")).revision == MAIN


def test_unreachable_hub_falls_back_to_the_cache(
    hub: Hub, cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_checkpoint("owner/tiny", ExportOptions(cache_dir=cache))
    for endpoint in (hub.endpoint, "http://127.0.0.1:9"):
        hub.status = 503
        monkeypatch.setattr(checkpoint_module, "fetch_snapshot", partial(fetch_snapshot, endpoint=endpoint))
        assert open_checkpoint("owner/tiny", ExportOptions(cache_dir=cache)) == first
        with pytest.raises(CheckpointNotFoundError, match=r"can't be reached.*HF_HUB_OFFLINE"):
            open_checkpoint("owner/tiny", ExportOptions(cache_dir=str(tmp_path / "empty")))


def test_repository_without_weights(hub: Hub, cache: str) -> None:
    hub.repositories["owner/bare"] = {MAIN: {"config.json": b'{"model_type": "bert"}', "README.md": b""}}
    with pytest.raises(CheckpointNotFoundError, match=r"has no weights: looked for model\.safetensors"):
        open_checkpoint("owner/bare", ExportOptions(cache_dir=cache))


def test_damaged_repository(hub: Hub, cache: str) -> None:
    hub.repositories["owner/bad"] = {MAIN: {"config.json": b"{", "model.safetensors": b"x"}}
    with pytest.raises(CorruptCheckpointError, match=r"config\.json"):
        open_checkpoint("owner/bad", ExportOptions(cache_dir=cache))


def test_a_directory_takes_precedence_over_a_repository(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "owner" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointNotFoundError, match=r"no config\.json"):
        open_checkpoint("owner/tiny", ExportOptions())
    assert hub.served == []


def test_which_files_are_downloaded() -> None:
    names = ["config.json", "pytorch_model.bin", "tf_model.h5", "model-00001-of-00002.safetensors", "x.gguf",
             "model.safetensors.index.json", "pytorch_model.fp16.bin", "training_args.bin", "spiece.model"]  # fmt: skip
    assert choose_files(names, ExportOptions()) == [
        "config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "spiece.model",
    ]  # fmt: skip
    assert choose_files(names, ExportOptions(framework="tf")) == ["config.json", "spiece.model", "tf_model.h5"]
    assert choose_files(names[:3], ExportOptions()) == ["config.json", "pytorch_model.bin"]
    assert choose_files(["x.gguf", "README.md"], ExportOptions()) == ["x.gguf"]
    assert choose_files(["x.gguf", "y.gguf"], ExportOptions()) == []
    modules = ["config.json", "model.safetensors", "modules.json", "sentence_bert_config.json", "1_Pooling/config.json",
               "2_Dense/config.json", "2_Dense/model.safetensors", "2_Dense/pytorch_model.bin", "onnx/config.json",
               "0_Transformer/vocab.txt", "0_Transformer/model.onnx"]  # fmt: skip
    assert set(modules) - set(choose_files(modules, ExportOptions())) == {
        "2_Dense/pytorch_model.bin", "onnx/config.json", "0_Transformer/model.onnx",
    }  # fmt: skip
    routes = ["modules.json", "router_config.json", "query_0_StaticEmbedding/model.safetensors",
              "query_0_StaticEmbedding/tokenizer.json", "2_Router/router_config.json",
              "2_Router/document_0_Dense/model.safetensors", "1_CNN/cnn_config.json"]  # fmt: skip
    assert choose_files(routes, ExportOptions()) == sorted(routes)


@pytest.mark.parametrize(("name", "answer"), [("bert-base-uncased", True), ("a/b", True), ("a/b.c_d-e", True),
                                              ("a/b/c", False), ("./a", False), ("a//b", False), ("a b", False),
                                              ("a/b.git", False), ("../a", False), ("", False)])  # fmt: skip
def test_repository_names(name: str, answer: bool) -> None:
    assert looks_like_repository(name) is answer
