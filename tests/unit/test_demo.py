"""The demo's server: it gives a browser of this machine the page, the export and the library, and nothing else."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from onnxport.bundles.manifest import FILE_NAME, ComponentDescription, Manifest
from onnxport.demo.server import DemoServer
from onnxport.errors import CheckpointNotFoundError, OptionError, UnsupportedError


def export(directory: Path, task: str = "text-generation-with-past", layout: str = "transformers.js") -> Path:
    (directory / "onnx").mkdir(parents=True)
    (directory / "onnx/model.onnx").write_bytes(b"graph")
    component = ComponentDescription("model", "onnx/model.onnx", (), 21, 20, 5, (), (), dtype="fp32")
    manifest = Manifest(task, {"model": "acme/model"}, {}, {}, (component,), {"status": "passed"}, layout=layout)
    (directory / FILE_NAME).write_text(manifest.to_json())
    return directory


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    for package in ("@huggingface/transformers", "onnxruntime-web"):
        (tmp_path / "npm/node_modules" / package / "dist").mkdir(parents=True)
    (tmp_path / "npm/node_modules/@huggingface/transformers/dist/transformers.min.js").write_text("export {};")
    (tmp_path / "npm/node_modules/onnxruntime-web/dist/kernels.wasm").write_bytes(b"\0asm")
    return tmp_path / "npm"


@contextmanager
def serving(directory: Path, modules: Path | None) -> Iterator[DemoServer]:
    with DemoServer(directory, modules) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(server: DemoServer, path: str, host: str | None = None) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.putrequest("GET", path, skip_host=host is not None)
    if host is not None:
        connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()


def test_a_browser_gets_the_page_the_export_and_the_library(tmp_path: Path, modules: Path) -> None:
    with serving(export(tmp_path / "out"), modules) as server:
        assert server.url == f"http://127.0.0.1:{server.server_port}/"
        status, headers, page = get(server, "/")
        assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert b"demo.mjs" in page
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert get(server, "/demo.css")[1]["Content-Type"] == "text/css"
        status, headers, script = get(server, "/library/transformers.min.js")
        assert (headers["Content-Type"], headers["Content-Length"], script) == ("text/javascript", "10", b"export {};")
        assert get(server, "/kernels/kernels.wasm")[1]["Content-Type"] == "application/wasm"
        assert get(server, "/model/onnx/model.onnx?x=1")[2] == b"graph"
        settings = json.loads(get(server, "/settings.json")[2])
    expected = {"name": "acme/model", "task": "text-generation", "pipeline": "text-generation"}
    assert settings == {**expected, "inputs": ["text"], "dtypes": ["fp32"]}


def test_other_files_stay_hidden(tmp_path: Path, modules: Path) -> None:
    directory = export(tmp_path / "out")
    (tmp_path / "secret").write_text("secret")
    paths = ("/model/../secret", "/model/%2e%2e/secret", f"/model/{tmp_path}/secret", "/model//etc/passwd", "/secret")
    absent = ("/model/absent", "/model/", "/model", "/server.py", "/library/../package.json")
    with serving(directory, modules) as server:
        (directory / "link").symlink_to(tmp_path / "secret")  # after the directory was checked
        assert {path: get(server, path)[0] for path in (*paths, *absent, "/model/link")} == dict.fromkeys(
            (*paths, *absent, "/model/link"), 404
        )


@pytest.mark.parametrize("host", ["example.com", "example.com:80", "127.0.0.1.example.com"])
def test_a_page_elsewhere_whose_name_leads_here_is_refused(host: str, tmp_path: Path, modules: Path) -> None:
    with serving(export(tmp_path / "out"), modules) as server:
        assert get(server, "/model/onnx/model.onnx", host)[0] == 403


def test_mistakes_are_errors_with_a_remedy(tmp_path: Path, modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match=r"the layout default: .* onnxport layout .* --to transformers\.js"):
        DemoServer(export(tmp_path / "default", layout="default"), modules)
    with pytest.raises(UnsupportedError, match=r"no pipeline for mask-generation"):
        DemoServer(export(tmp_path / "sam", task="mask-generation"), modules)
    directory = export(tmp_path / "out")
    with pytest.raises(CheckpointNotFoundError, match=r"npm install @huggingface/transformers"):
        DemoServer(directory, tmp_path)
    (modules / "below").mkdir()
    monkeypatch.chdir(modules / "below")
    with serving(directory, None) as server, pytest.raises(OptionError, match=r"port \d+ can't be used: .*another"):
        DemoServer(directory, None, server.server_port)
