"""Export a tiny checkpoint of every class of transformers.js that Transformers has, and load each in Node.

python -m clients.registry [--sample N] [--jobs N]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from clients.environments import node_modules
from clients.models import ROOT
from conformance.exports import FAILED, PASSED, command
from conformance.matrix.classes import classes, save_class
from conformance.matrix.exports import commit, failure_of
from conformance.matrix.page import reason
from conformance.runner import Job, run
from onnxport.layouts._transformers_js_classes import NAMES, SESSIONS

PAGE = Path(__file__).parent.parent / "docs" / "transformers-js.md"
_WORK = ROOT / "registry"
_HEAD = """# Classes of transformers.js

`python -m clients.registry` exports a tiny checkpoint of random weights for every class in the registry of
transformers.js 4.3.2 that Transformers has, in the [layout](layouts.md) of transformers.js, and loads it in Node, as
`CLASS.from_pretrained(directory)`. What loaded classes compute is compared for the models of [clients](clients.md).
"""


def export_class(model_type: str, class_name: str, directory: Path) -> dict[str, Any]:
    """Make the checkpoint of a class, and export it without validation.

    Args:
        model_type: as in `config.json`.
        class_name: the class, as `architectures` names it.
        directory: directory of checkpoints, which are removed again, and of outputs.

    Returns:
        `status`, `seconds`, `commit`, and the `message` of a failure.
    """
    start, checkpoint, output = time.perf_counter(), directory / "checkpoints" / class_name, directory / class_name
    for path in (checkpoint, output):
        shutil.rmtree(path, ignore_errors=True)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    try:
        save_class(model_type, class_name, checkpoint)
        options = ["--layout", "transformers.js", "--dtype", "fp32", "--validate", "none", "--no-cache", "--quiet"]
        code, text = command(["export", str(checkpoint), str(output), *options, "--debug"])
        found = {"status": PASSED} if code == 0 else failure_of(text)
    except Exception as error:  # configurations and models raise any exception
        found = {"status": FAILED, "category": "make", "message": f"{type(error).__name__}: {error}"[:300]}
    finally:
        shutil.rmtree(checkpoint, ignore_errors=True)
    return {**found, "commit": commit(), "seconds": round(time.perf_counter() - start, 1)}


def load_in_node(names: list[str], directory: Path) -> dict[str, str]:
    """Load classes in Node; return the names of those that fail, with their error."""
    script = Path(__file__).parent / "load_transformers_js.mjs"
    variables = {**os.environ, "CLIENT_MODULES": str(node_modules())}
    failed = dict.fromkeys(names, "Node ended before it was loaded")
    exported = {NAMES.get(name, name): name for name in names}
    for start in range(0, len(names), 50):  # each session keeps memory
        arguments = [f"{NAMES.get(name, name)}={directory / name}" for name in names[start : start + 50]]
        done = subprocess.run(["node", str(script), *arguments], env=variables, stdout=subprocess.PIPE, text=True)
        for line in done.stdout.splitlines():
            if line.startswith('{"class"'):
                found = json.loads(line)
                failed[exported[found["class"]]] = found["error"]
    return {name: error for name, error in failed.items() if error}


def page(records: list[dict[str, Any]]) -> str:
    """Return the text of the page."""
    passed = [record for record in records if record["status"] == PASSED]
    commits = ", ".join(sorted({record["commit"] for record in records if "commit" in record}))
    share = f"{len(passed) / len(records):.1%}"
    lines = [_HEAD, f"At commit {commits}, {len(passed)} of {len(records)} classes were loaded ({share}).", ""]
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
    failed = load_in_node([record["class"] for record in records if record["status"] == PASSED], _WORK)
    records = [
        {**record, "status": FAILED, "message": failed[record["class"]]} if record["class"] in failed else record
        for record in records
    ]
    for record in records:
        if record["status"] != PASSED:
            print(record["class"], reason(record), flush=True)
    if not arguments.sample:
        PAGE.write_text(page(records), encoding="utf-8")
    shutil.rmtree(_WORK)
    return int(any(record["status"] != PASSED for record in records))


if __name__ == "__main__":
    sys.exit(main())
