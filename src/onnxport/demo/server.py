"""Serve a page, an exported directory, and transformers.js from an installed npm package, to this machine only."""

from __future__ import annotations

import json
import shutil
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from onnxport.bundles.manifest import Manifest, open_manifest
from onnxport.containment import inside
from onnxport.description.tasks import PAST_SUFFIX
from onnxport.errors import CheckpointNotFoundError, CorruptCheckpointError, OptionError, UnsupportedError

LAYOUT = "transformers.js"
_LIBRARY = PurePosixPath("node_modules/@huggingface/transformers")
_KERNELS = PurePosixPath("node_modules/onnxruntime-web")
_TYPES = {
    **{".html": "text/html; charset=utf-8", ".mjs": "text/javascript", ".js": "text/javascript"},
    **{".json": "application/json", ".wasm": "application/wasm", ".css": "text/css"},
}
"""Suffix to media type; other files are data."""
_HEADERS = {
    # Without both, a browser has no memory that its threads share, and WASM runs on one core.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval' blob:; worker-src 'self' blob:; style-src 'self'; "
        "connect-src 'self' blob: data:; img-src 'self' blob: data:"
    ),
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}
_HOSTS = ("127.0.0.1", "localhost")
"""Names of this machine; a page elsewhere whose name leads here has another."""
_PIPELINES = {
    **dict.fromkeys(("feature-extraction", "sentence-similarity"), ("feature-extraction", ("text",))),
    **{name: (name, ("text",)) for name in ("text-classification", "token-classification", "fill-mask")},
    **{name: (name, ("text",)) for name in ("text-generation", "text2text-generation")},
    "question-answering": ("question-answering", ("text", "context")),
    "zero-shot-classification": ("zero-shot-classification", ("text", "labels")),
    "zero-shot-image-classification": ("zero-shot-image-classification", ("image", "labels")),
    **{name: (name, ("image",)) for name in ("image-classification", "object-detection", "depth-estimation")},
    **{name: ("image-segmentation", ("image",)) for name in ("image-segmentation", "semantic-segmentation")},
    "image-to-text": ("image-to-text", ("image",)),
    **{name: (name, ("audio",)) for name in ("automatic-speech-recognition", "audio-classification")},
}
"""Task to transformers.js's pipeline and its inputs."""


class DemoServer(ThreadingHTTPServer):
    """Serve a page on 127.0.0.1.

    Args:
        directory: an export in the layout of transformers.js.
        modules: folder whose `node_modules` has transformers.js; None to search the current folder and its parents.
        port: TCP port; 0 for a free one.

    Raises:
        CheckpointNotFoundError: a directory doesn't exist, wasn't written by onnxport, or has no transformers.js.
        OptionError: the directory has another layout, or the port is taken.
        UnsupportedError: transformers.js has no pipeline for the task.
    """

    daemon_threads = True

    def __init__(self, directory: Path, modules: Path | None = None, port: int = 0) -> None:
        manifest = open_manifest(directory)
        if manifest.layout != LAYOUT:
            raise OptionError(
                f"{directory} has the layout {manifest.layout}: arrange it for the browser first, with onnxport layout "
                f"{directory} OUTPUT --to {LAYOUT}"
            )
        self.settings = _settings(manifest)
        root = _modules(modules)
        self.folders = {"model": directory, "library": root / _LIBRARY / "dist", "kernels": root / _KERNELS / "dist"}
        try:
            super().__init__((_HOSTS[0], port), _Handler)
        except OSError as error:
            raise OptionError(f"port {port} can't be used: {error.strerror or error}; choose another") from error

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{_HOSTS[0]}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    """Answer GET requests from this machine."""

    server: DemoServer

    def do_GET(self) -> None:
        """Send a file."""
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if host not in _HOSTS:
            self.send_error(HTTPStatus.FORBIDDEN, "only for this machine")
            return
        path = unquote(urlsplit(self.path).path).lstrip("/") or "demo.html"
        if path == "settings.json":
            self._send(json.dumps(self.server.settings).encode(), ".json")
        elif path in ("demo.html", "demo.mjs", "demo.css"):
            self._send(files("onnxport.demo").joinpath(path).read_bytes(), Path(path).suffix)
        else:
            self._send_file(path)

    def _send_file(self, path: str) -> None:
        folder, _, name = path.partition("/")
        try:
            file = inside(self.server.folders[folder], name, self.server.folders[folder])
            with file.open("rb") as content:
                self._start(file.suffix, file.stat().st_size)
                shutil.copyfileobj(content, self.wfile)
        except (KeyError, OSError, CorruptCheckpointError):
            self.send_error(HTTPStatus.NOT_FOUND)

    def _send(self, content: bytes, suffix: str) -> None:
        self._start(suffix, len(content))
        self.wfile.write(content)

    def _start(self, suffix: str, size: int) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", _TYPES.get(suffix, "application/octet-stream"))
        self.send_header("Content-Length", str(size))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # the base class's name
        """Print nothing: the browser shows what is missing."""


def _settings(manifest: Manifest) -> dict[str, object]:
    """Return what the page is told.

    Raises:
        UnsupportedError: transformers.js has no pipeline for the task.
    """
    task = manifest.task.removesuffix(PAST_SUFFIX)
    if task not in _PIPELINES:
        raise UnsupportedError(
            f"transformers.js has no pipeline for {task} that this page can show; those that it can: "
            f"{', '.join(sorted(_PIPELINES))}"
        )
    pipeline, inputs = _PIPELINES[task]
    return {
        "name": manifest.source.get("model") or "ONNX export",
        "task": task,
        "pipeline": pipeline,
        "inputs": list(inputs),
        "dtypes": list(manifest.dtypes),
    }


def _modules(modules: Path | None) -> Path:
    """Return the folder that has transformers.js among its npm packages.

    Raises:
        CheckpointNotFoundError: there is none.
    """
    current = Path.cwd()
    for folder in (current, *current.parents) if modules is None else (modules,):
        if (folder / _LIBRARY / "dist").is_dir() and (folder / _KERNELS / "dist").is_dir():
            return folder
    raise CheckpointNotFoundError(
        f"{modules or current} has no {_LIBRARY}: install it there with npm install @huggingface/transformers, or name "
        "its folder with --modules"
    )
