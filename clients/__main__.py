"""Export the models, try each client with them, and write docs/clients.md.

python -m clients [--client NAME ...] [--case NAME ...]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnxport
from clients.environments import browser, environment, node_modules
from clients.models import CASES, ROOT, Case, reference
from clients.table import write_page
from onnxport.layouts import rearrange

HERE = Path(__file__).parent
MINUTES = 30


@dataclass(frozen=True)
class Client:
    """Hold how a client is tried.

    Attributes:
        name: its name in the table.
        script: file of this folder.
        layout: the layout that it loads.
        cases: the models that it has a class for.
        environment: where its packages are; `node` for Node, `browser` for Node that drives Chromium.
        snippet: file of `snippets/` that shows how it is used; empty if another client's does.
        server: arguments of Python, in the directory of the snippet, that serve what it asks; empty for none.
    """

    name: str
    script: str
    layout: str
    cases: tuple[str, ...]
    environment: str
    snippet: str = ""
    server: tuple[str, ...] = ()


EVERY = ("minilm", "classifier", "smollm2", "t5", "whisper", "vit", "clip")
IMAGES_AND_TEXT = ("smolvlm", "qwen2_vl", "qwen3_vl", "paligemma", "gemma3")
CLIENTS = (
    Client("optimum-onnx 0.1.0", "try_optimum.py", "default", EVERY, "optimum", "optimum.py"),
    Client(
        "sentence-transformers 6.2.0",
        "try_sentence_transformers.py",
        "default",
        ("minilm",),
        "optimum",
        "sentence_transformers.py",
    ),
    Client("fastembed 0.9.1", "try_fastembed.py", "default", ("minilm",), "fastembed", "fastembed.py"),
    Client(
        "OpenVINO 2026.4.1",
        "try_openvino.py",
        "default",
        ("minilm", "classifier", "vit", "clip"),
        "openvino",
        "openvino.py",
    ),
    Client(
        "transformers.js 4.3.2, Node",
        "try_transformers_js.mjs",
        "transformers.js",
        (*EVERY, "clip_split", "sam", *IMAGES_AND_TEXT, "whisper_words"),
        "node",
        "transformers_js.mjs",
    ),
    Client(
        "transformers.js 4.3.2, Chromium",
        "try_chromium.mjs",
        "transformers.js",
        (*EVERY, "clip_split", "sam", *IMAGES_AND_TEXT, "whisper_words"),
        "browser",
    ),
    Client(
        "onnxruntime-web 1.31, Chromium",
        "try_chromium.mjs",
        "default",
        ("vit", "clip"),
        "browser",
        "onnxruntime_web.mjs",
    ),
    Client(
        "onnxruntime-genai 0.18.0",
        "try_genai.py",
        "genai",
        ("smollm2", "whisper", "qwen2_vl", "qwen3_vl", "gemma3"),
        "genai",
        "genai.py",
    ),
    Client(
        "Triton (stand-in)",
        "try_triton.py",
        "triton",
        (*EVERY, "sam", "qwen2_vl"),
        "triton",
        "triton.py",
        (str(HERE / "triton_stand_in.py"), "minilm-triton", "8001"),
    ),
)


def directory(case: Case, layout: str) -> Path:
    """Return the export of a case in a layout, which is made once."""
    checkpoint, folder = reference(case, ROOT / "cases"), ROOT / "cases" / case.name
    if not (folder / "default").exists():
        print(f"export {case.name}", file=sys.stderr, flush=True)
        onnxport.export(checkpoint, folder / "default", case.options)
    if layout != "default":
        rearrange(folder / "default", layout, folder / layout, force=True)
    return folder / layout


def run(client: Client, cases: list[Case]) -> dict[str, dict[str, object]]:
    """Try a client; return what it said of each case."""
    arguments = [
        f"{case.name}={directory(case, client.layout)}={ROOT / 'cases' / case.name / 'case.json'}" for case in cases
    ]
    if client.environment in ("node", "browser"):
        command = ["node", str(HERE / client.script), *arguments]
        variables = {**os.environ, "CLIENT_MODULES": str(node_modules())}
        if client.environment == "browser":
            variables |= {"CLIENT_CHROMIUM": browser(), "CLIENT_NAME": client.name}
    else:
        command, variables = [sys.executable, str(HERE / client.script), *arguments], environment(client.environment)
    done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, timeout=60 * MINUTES, check=False)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"case"')]
    missing = {case.name for case in cases} - {item["case"] for item in found}
    found += [{"case": name, "passed": False, "result": f"no result, exit code {done.returncode}"} for name in missing]
    return {str(item["case"]): item for item in found}


def run_snippet(client: Client) -> str:
    """Run a client's snippet beside the directories that it names; return its error, empty if it ran."""
    folder, source = ROOT / "snippets", HERE / "snippets" / client.snippet
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    text, by_name = source.read_text(encoding="utf-8"), {case.name: case for case in CASES}
    for name, (case, layout) in DIRECTORIES.items():
        if re.search(rf"['\"]{name}['\"/]", text):
            (folder / name).symlink_to(directory(by_name[case], layout).absolute())
    shutil.copyfile(source, folder / f"snippet{source.suffix}")
    if source.suffix == ".mjs":
        (folder / "node_modules").symlink_to((node_modules() / "node_modules").absolute())
        command, variables = ["node", "snippet.mjs"], dict(os.environ)
    else:
        command, variables = [sys.executable, "snippet.py"], environment(client.environment)
    with served(client, folder, variables):
        done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=60 * MINUTES)
    shutil.rmtree(folder)
    if done.returncode:
        return done.stderr[-300:] or f"exit code {done.returncode}"
    return "" if done.stdout.strip() else "it printed nothing"


@contextmanager
def served(client: Client, folder: Path, variables: dict[str, str]) -> Iterator[None]:
    """Run a client's server in a block, if it has one."""
    if not client.server:
        yield
        return
    command = [sys.executable, *client.server]
    with subprocess.Popen(command, cwd=folder, env=variables, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        server.stdout.readline()  # it is ready
        try:
            yield
        finally:
            server.terminate()


DIRECTORIES = {
    "minilm": ("minilm", "default"),
    "minilm-js": ("minilm", "transformers.js"),
    "smollm2": ("smollm2", "default"),
    "smollm2-genai": ("smollm2", "genai"),
    "minilm-triton": ("minilm", "triton"),
}
"""Directories in snippets: the model and its layout."""


def main() -> int:
    """Return 1 if a client failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--client", nargs="*", default=[client.name for client in CLIENTS])
    parser.add_argument("--case", nargs="*", default=[case.name for case in CASES])
    chosen = parser.parse_args()
    results, errors = {}, []
    for client in CLIENTS:
        cases = [case for case in CASES if case.name in client.cases and case.name in chosen.case]
        if not cases or not any(name.lower() in client.name.lower() for name in chosen.client):
            continue
        results[client.name] = run(client, cases)
        for name, result in results[client.name].items():
            print(
                f"{client.name}: {name}: {'passed' if result['passed'] else 'FAILED'}: {result['result']}", flush=True
            )
        error = run_snippet(client) if client.snippet else ""
        if error:
            errors.append(error)
            print(f"{client.name}: {client.snippet}: FAILED: {error}", flush=True)
    file = ROOT / "results.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    merged = {client.name: {**known.get(client.name, {}), **results.get(client.name, {})} for client in CLIENTS}
    file.write_text(json.dumps(merged, indent=2))
    snippets = {client.name: HERE / "snippets" / client.snippet for client in CLIENTS if client.snippet}
    write_page(merged, [case.name for case in CASES], snippets)
    return int(bool(errors) or any(not result["passed"] for found in results.values() for result in found.values()))


if __name__ == "__main__":
    sys.exit(main())
