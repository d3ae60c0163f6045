"""Export one pair of the matrix with the `onnxport` command, and return the results in its manifest."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import Any

from conformance.exports import FAILED, PASSED, command
from conformance.matrix.interface import missing_modalities
from conformance.matrix.pairs import Pair
from conformance.matrix.tiny import NoCheckpointError, checkpoint_of

_STAMPED = re.compile(r"layers traced and proved isomorphic")
_TRACE = 2000
"""Characters of each end of a traceback that a record keeps."""
_CATEGORIES = {
    "UnsupportedError": "describe",
    "WeightsMismatchError": "bind",
    "TraceError": "trace",
    "ValidationError": "validate",
    "NoKernelError": "validate",
}


def run_matrix_pair(model_type: str, task: str, directory: Path) -> dict[str, Any]:
    """Make the pair's checkpoint, export it and validate the export.

    Args:
        model_type: as in `config.json`.
        task: a task, with or without past.
        directory: directory of the checkpoints, and of outputs, which are removed again.

    Returns:
        `status`, `seconds` and `commit`; if the pair passed, facts from the manifest; if it failed, `category` (make,
        describe, bind, trace, convert, validate, interface), `message` and the end of the traceback.
    """
    start = time.perf_counter()
    output = directory / "outputs" / f"{model_type}-{task}"
    shutil.rmtree(output, ignore_errors=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {}
    try:
        checkpoint, facts = checkpoint_of(model_type, task, directory / "checkpoints")
        found = _export(checkpoint, (model_type, task), output)
        if found["status"] == FAILED and found["category"] != "interface" and facts.get("eager_failure"):
            found |= {"category": "make", "message": f"the tiny model fails eagerly: {facts['eager_failure']}"}
    except NoCheckpointError as error:
        found = {"status": FAILED, "category": "make", "message": str(error)}
    finally:
        shutil.rmtree(output, ignore_errors=True)
    known = {name: facts[name] for name in ("parameters", "repeated") if name in facts}
    return {**found, **known, "commit": commit(), "seconds": round(time.perf_counter() - start, 1)}


@cache
def commit() -> str:
    """Return the commit that is checked out, marked where files differ from it."""
    described = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(
        described, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    ).stdout.strip()


def _export(checkpoint: Path, pair: Pair, output: Path) -> dict[str, Any]:
    options = ["--task", pair[1], "--quiet", "--debug", "--no-cache"]
    code, text = command(["export", str(checkpoint), str(output), *options])
    if code != 0:
        return failure_of(text)
    manifest = json.loads((output / "onnxport.json").read_text())
    names = [tensor["name"] for component in manifest["components"] for tensor in component["inputs"]]
    missing = missing_modalities(*pair, names)
    if missing:
        message = f"no graph takes {' or '.join(missing)}: the inputs are {', '.join(names)}"
        return {"status": FAILED, "category": "interface", "message": message[:400]}
    return success_of(manifest)


def failure_of(text: str) -> dict[str, Any]:
    lines = [line for line in text.splitlines() if line.startswith("onnxport: error: ")] or text.splitlines()[-1:]
    message = lines[-1].removeprefix("onnxport: error: ") if lines else "the command printed nothing"
    raised = re.findall(r"^(?:[\w]+\.)*(\w+Error): ", text, re.M)
    category = _CATEGORIES.get(raised[-1] if raised else "", "crash")
    if category == "trace" and re.search(r"ConversionError|Failed to (convert|decompose)|No ONNX function", text):
        category = "convert"
    return {"status": FAILED, "category": category, "message": message[:400], "trace": _ends(text)}


def _ends(text: str) -> str:
    """Return the beginning of a traceback, with its first cause, and its end."""
    return text if len(text) <= 2 * _TRACE else f"{text[:_TRACE]}\n...\n{text[-_TRACE:]}"


def success_of(manifest: dict[str, Any]) -> dict[str, Any]:
    components = manifest["components"]
    inputs = [tensor for component in components for tensor in component["inputs"]]
    fixed = [axis for component in components for axis in component["fixed_axes"]]
    notes = [note for component in components for note in component["notes"]]
    cases = manifest["validation"]["cases"]
    status = manifest["validation"]["status"]
    if status != PASSED or not cases:
        return {"status": FAILED, "category": "validate", "message": f"the manifest has the status {status!r}"}
    tokens = [tensor["axes"] for tensor in inputs if tensor["name"].endswith("input_ids") and len(tensor["axes"]) > 1]
    tokens = [axes for axes in tokens if axes[1] != 1]  # a transducer takes one token in each step
    return {
        "status": PASSED,
        "cases": len(cases),
        "refused": [f"{case['name']}: {case['note']}"[:200] for case in cases if case["note"]],
        "inputs": [f"{tensor['name']}{tensor['axes']}" for tensor in inputs][:12],
        "fixed_axes": fixed,
        "batch": all(any("batch" in str(axis) for axis in tensor["axes"]) for tensor in inputs[:1]),
        "length": all(isinstance(axes[1], str) for axes in tokens) if tokens else None,
        "stamped": any(_STAMPED.search(note) for note in notes),
        "notes": [note[:200] for note in notes],
    }
