"""Export a tiny checkpoint of every class of transformers.js that Transformers has, and run each in Node.

python -m clients.registry [--sample N] [--jobs N]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import onnxport
from clients.environments import node_modules
from clients.models import ROOT, tensors_as_json
from conformance.exports import FAILED, PASSED
from conformance.matrix.classes import classes, save_class
from conformance.matrix.exports import commit
from conformance.matrix.page import reason
from conformance.matrix.use import refer
from conformance.runner import Job, run
from onnxport import ExportOptions
from onnxport._transformers_api import call_forward
from onnxport.layouts import rearrange
from onnxport.layouts._table import layout_of
from onnxport.layouts._transformers_js_classes import NAMES, SESSIONS

PAGE = Path(__file__).parent.parent / "docs" / "transformers-js.md"
_WORK = ROOT / "registry"
_HEAD = """# Classes of transformers.js

`python -m clients.registry` exports a tiny checkpoint of random weights for every class in the registry of
transformers.js 4.3.2 that Transformers has, in the [layout](layouts.md) of transformers.js, loads it in Node, as
`CLASS.from_pretrained(directory)`, and passes it random inputs: a class that generates returns PyTorch's tokens (12,
after a prompt, an image or audio), and another one its outputs (within 1e-3 of the largest number). A class is loaded
alone if `onnxport.load` or PyTorch runs it by methods of its own, or it has random outputs.
"""
_NEW_TOKENS = 12
_SINGLE = ("WhisperForConditionalGeneration",)
"""Classes that generate for one input at a time in transformers.js."""
_INPUT_NAMES = {"VoxtralForConditionalGeneration": {"input_features": "audio_values"}}
"""Class to the names of inputs that its processor in transformers.js has others for."""


def export_class(model_type: str, class_name: str, directory: Path) -> dict[str, Any]:
    """Make the checkpoint of a class, and export it without validation.

    Args:
        model_type: as in `config.json`.
        class_name: the class, as `architectures` names it.
        directory: directory of checkpoints, which are removed again, and of outputs.

    Returns:
        `status`, `seconds`, `commit`, and the `message` of a failure.
    """
    start, output = time.perf_counter(), directory / class_name
    checkpoint, default = (directory / kind / class_name for kind in ("checkpoints", "defaults"))
    for path in (checkpoint, default, output):
        shutil.rmtree(path, ignore_errors=True)
        path.parent.mkdir(parents=True, exist_ok=True)
    layout = layout_of("transformers.js")
    options = ExportOptions(dtype="fp32", validate="none", cache=False)
    try:
        model = save_class(model_type, class_name, checkpoint)
        onnxport.export(checkpoint, default, layout.with_defaults(options, model_type, [class_name]))
        rearrange(default, layout.name, output)
        reference = _reference(model, checkpoint, default, output)
        if reference is not None:
            quoted = re.sub(r"-?Infinity|NaN", r'"\g<0>"', json.dumps(reference))  # JSON has no such numbers
            (output / "reference.json").write_text(quoted)
        found = {"status": PASSED}
    except Exception as error:  # configurations and models raise any exception
        found = {"status": FAILED, "message": f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]}
    finally:
        for path in (checkpoint, default):
            shutil.rmtree(path, ignore_errors=True)
    return {**found, "commit": commit(), "seconds": round(time.perf_counter() - start, 1)}


def _reference(model: Any, checkpoint: Path, default: Path, output: Path) -> dict[str, Any] | None:
    """Return inputs, the model's outputs, and the tokens that it generates; None if they aren't known.

    Args:
        model: as Transformers loads it.
        checkpoint: its directory.
        default: its export.
        output: the same in the layout of transformers.js.
    """
    manifest, arranged = (json.loads((path / "onnxport.json").read_text()) for path in (default, output))
    absent = {name for item in arranged["components"] for name in item.get("absent_inputs", ())}
    name = type(model).__name__
    unbatched = layout_of("transformers.js").unbatched.get(name, ())
    try:
        found = refer(model, checkpoint, onnxport.load(default), manifest)
        if found is None:
            return None
        given = {key: value for key, value in found.inputs.items() if key not in absent}
        if name in _SINGLE or unbatched:
            given = {key: value[:1] for key, value in given.items()}
        passed = {
            _INPUT_NAMES.get(name, {}).get(key, key): value[0] if key in unbatched else value
            for key, value in given.items()
        }
        with torch.no_grad():
            outputs = call_forward(model, given)
        floats = {key: value for key, value in outputs.items() if torch.is_tensor(value) and value.is_floating_point()}
        reference = {"inputs": tensors_as_json(passed), "outputs": tensors_as_json(floats)}
        if model.can_generate():
            greedy = {"max_new_tokens": _NEW_TOKENS, "min_new_tokens": _NEW_TOKENS, "do_sample": False}
            prompt = {key: value for key, value in given.items() if key != "decoder_input_ids"}
            tokens = model.generate(**prompt, **greedy).tolist()
            start = [model.generation_config.decoder_start_token_id] if name in _SINGLE else []  # it leaves that out
            reference["tokens"] = [[*start, *row] for row in tokens]
        return reference
    except Exception:  # graphs that onnxport.load can't run together, and models that generate by a method of their own
        return None


def run_in_node(names: list[str], directory: Path) -> dict[str, dict[str, str]]:
    """Run classes in Node; return the `error` of each, empty if it has none, and what was `compared`."""
    script = Path(__file__).parent / "load_transformers_js.mjs"
    variables = {**os.environ, "CLIENT_MODULES": str(node_modules())}
    results = {name: {"error": "Node ended before it was loaded", "compared": ""} for name in names}
    exported = {NAMES.get(name, name): name for name in names}
    for start in range(0, len(names), 50):  # each session keeps memory
        arguments = [f"{NAMES.get(name, name)}={directory / name}" for name in names[start : start + 50]]
        done = subprocess.run(["node", str(script), *arguments], env=variables, stdout=subprocess.PIPE, text=True)
        for line in done.stdout.splitlines():
            if line.startswith('{"class"'):
                found = json.loads(line)
                results[exported[found.pop("class")]] = found
    return results


def _outcome(found: dict[str, str] | None) -> dict[str, str]:
    """Return what Node says of a class, as part of its record."""
    if found is None:  # it wasn't exported
        return {}
    return {"status": FAILED, "message": found["error"]} if found["error"] else {"compared": found["compared"]}


def page(records: list[dict[str, Any]]) -> str:
    """Return the text of the page."""
    passed = [record for record in records if record["status"] == PASSED]
    commits = ", ".join(sorted({record["commit"] for record in records if "commit" in record}))
    share = f"{len(passed) / len(records):.1%}"
    compared = [sum(record.get("compared") == kind for record in passed) for kind in ("tokens", "outputs")]
    lines = [
        f"{_HEAD}\nAt commit {commits}, {len(passed)} of {len(records)} classes work ({share}): {compared[0]} "
        f"generated PyTorch's tokens, {compared[1]} returned its outputs, and {len(passed) - sum(compared)} were "
        "loaded alone.\n"
    ]
    lines += ["| class | why it isn't |", "| --- | --- |"]
    lines += [f"| {record['class']} | {reason(record)} |" for record in records if record["status"] != PASSED]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Return 1 if a class failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, metavar="N", help="N random classes; all by default")
    parser.add_argument("--jobs", type=int, default=2, help="worker processes")
    arguments = parser.parse_args()
    known = {name: model_type for model_type, name in classes()}
    pairs = sorted((known[name], name) for name in SESSIONS if name in known)
    if arguments.sample:
        pairs = random.Random(0).sample(pairs, arguments.sample)
    results = _WORK / "results.jsonl"
    results.unlink(missing_ok=True)
    job = Job("clients.registry:export_class", "class")
    records = run(pairs, directory=_WORK, results=results, jobs=arguments.jobs, seconds=300, job=job)
    found = run_in_node([record["class"] for record in records if record["status"] == PASSED], _WORK)
    records = [{**record, **_outcome(found.get(record["class"]))} for record in records]
    for record in records:
        if record["status"] != PASSED:
            print(record["class"], reason(record), flush=True)
    if not arguments.sample:
        PAGE.write_text(page(records), encoding="utf-8")
    shutil.rmtree(_WORK)
    return int(any(record["status"] != PASSED for record in records))


if __name__ == "__main__":
    sys.exit(main())
