"""Export the models, try each client with them, and write docs/clients.md.

python -m clients [--client NAME ...] [--case NAME ...]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
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
    """

    name: str
    script: str
    layout: str
    cases: tuple[str, ...]
    environment: str


EVERY = ("minilm", "classifier", "smollm2", "t5", "whisper", "vit", "clip")
CLIENTS = (
    Client("optimum-onnx 0.1.0", "try_optimum.py", "default", EVERY, "optimum"),
    Client("sentence-transformers 6.2.0", "try_sentence_transformers.py", "default", ("minilm",), "optimum"),
    Client("fastembed 0.9.1", "try_fastembed.py", "default", ("minilm",), "fastembed"),
    Client("OpenVINO 2026.4.1", "try_openvino.py", "default", ("minilm", "classifier", "vit", "clip"), "openvino"),
    Client(
        "transformers.js 4.3.2, Node",
        "try_transformers_js.mjs",
        "transformers.js",
        (*EVERY, "clip_split", "sam", "smolvlm", "qwen2_vl", "whisper_words"),
        "node",
    ),
    Client(
        "transformers.js 4.3.2, Chromium",
        "try_chromium.mjs",
        "transformers.js",
        (*EVERY, "clip_split", "sam", "smolvlm", "qwen2_vl", "whisper_words"),
        "browser",
    ),
    Client("onnxruntime-web 1.31, Chromium", "try_chromium.mjs", "default", ("vit", "clip"), "browser"),
    Client("onnxruntime-genai 0.18.0", "try_genai.py", "genai", ("smollm2",), "genai"),
    Client("Triton (configuration)", "try_triton.py", "triton", (*EVERY, "sam", "qwen2_vl"), "triton"),
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


def main() -> int:
    """Return 1 if a client failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--client", nargs="*", default=[client.name for client in CLIENTS])
    parser.add_argument("--case", nargs="*", default=[case.name for case in CASES])
    chosen = parser.parse_args()
    results = {}
    for client in CLIENTS:
        cases = [case for case in CASES if case.name in client.cases and case.name in chosen.case]
        if not cases or not any(name.lower() in client.name.lower() for name in chosen.client):
            continue
        results[client.name] = run(client, cases)
        for name, result in results[client.name].items():
            print(
                f"{client.name}: {name}: {'passed' if result['passed'] else 'FAILED'}: {result['result']}", flush=True
            )
    file = ROOT / "results.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    merged = {client.name: {**known.get(client.name, {}), **results.get(client.name, {})} for client in CLIENTS}
    file.write_text(json.dumps(merged, indent=2))
    write_page(merged, [case.name for case in CASES])
    return int(any(not result["passed"] for found in results.values() for result in found.values()))


if __name__ == "__main__":
    sys.exit(main())
