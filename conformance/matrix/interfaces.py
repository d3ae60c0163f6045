"""Describe every class of Transformers, and list the parameters of forwards that no graph takes, by rule."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from conformance.exports import FAILED, PASSED
from conformance.matrix.classes import save_class
from conformance.matrix.exports import commit
from conformance.matrix.page import reason
from conformance.matrix.use import describe_checkpoint
from onnxport.description.forward import NOT_DESCRIBED
from onnxport.errors import OnnxportError

PAGE = Path("docs/interfaces.md")
_HEAD = """# Inputs that graphs leave out

`python -m conformance interfaces` describes every class of Transformers that has a forward and a configuration, from a
tiny checkpoint without preprocessor files, and exports none. A parameter of the forward is an input of a graph, or a
rule leaves it out; the manifest (`left_out` in `onnxport.json`) has the reason for each. The command writes this page
and `interfaces.json`, which a test compares with a sample of classes.
"""


def describe_class(model_type: str, class_name: str, directory: Path) -> dict[str, Any]:
    """Make the checkpoint of a class, and describe it.

    Args:
        model_type: as in `config.json`.
        class_name: the class, as `architectures` names it.
        directory: directory of checkpoints, which are removed again.

    Returns:
        `status`, `seconds`, `commit`, and `left_out`: parameter to rule. A class with parameters that no rule leaves
        out fails with the category `interface`; `message` names them.
    """
    start, checkpoint = time.perf_counter(), directory / "checkpoints" / class_name
    shutil.rmtree(checkpoint, ignore_errors=True)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    try:
        found = _describe(model_type, class_name, checkpoint)
    except OnnxportError as error:
        found = {"status": FAILED, "category": "describe", "message": str(error)[:300]}
    except Exception as error:  # configurations and models raise any exception
        text = " ".join(str(error).split())
        found = {"status": FAILED, "category": "make", "message": f"{type(error).__name__}: {text}"[:300]}
    finally:
        shutil.rmtree(checkpoint, ignore_errors=True)
    return {**found, "commit": commit(), "seconds": round(time.perf_counter() - start, 1)}


def _describe(model_type: str, class_name: str, checkpoint: Path) -> dict[str, Any]:
    left_out = describe_checkpoint(save_class(model_type, class_name, checkpoint), checkpoint).left_out
    missing = [name for name, text in left_out.items() if text == NOT_DESCRIBED]
    rules = {name: rule_of(text) for name, text in left_out.items()}
    if missing:
        return {
            "status": FAILED,
            "category": "interface",
            "message": f"not inputs: {', '.join(missing)}",
            "left_out": rules,
        }
    return {"status": PASSED, "left_out": rules}


def rule_of(text: str) -> str:
    """Return the rule of a reason, without the value of an option or the name of a task."""
    return re.sub(r"^(an option of forward|a cache): .*", r"\1", text)


def publish(records: Iterable[Mapping[str, Any]], page: Path = PAGE) -> None:
    """Write the page, and the parameters of each rule as JSON next to it.

    Args:
        records: results of classes.
        page: the Markdown file; the JSON file has the same name with the suffix `.json`.
    """
    found = list(records)
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for record in found:
        for name, rule in record.get("left_out", {}).items():
            counts[rule][name] += 1
    rules = {rule: dict(sorted(names.items())) for rule, names in sorted(counts.items())}
    failed = {record["class"]: reason(record) for record in found if record["status"] != PASSED}
    lines = [f"{json.dumps(rule)}: {json.dumps(names)}" for rule, names in rules.items()]
    page.with_suffix(".json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    page.write_text(_text(rules, failed, found), encoding="utf-8")


def _text(rules: Mapping[str, Mapping[str, int]], failed: Mapping[str, str], records: list[Mapping[str, Any]]) -> str:
    commits = ", ".join(sorted({record["commit"] for record in records if "commit" in record}))
    described = len(records) - len(failed)
    share = f"{100 * described / len(records):.1f} %"
    lines = [
        _HEAD,
        f"At commit {commits}, {described} of {len(records)} classes ({share}) are described with every",
        "tensor of their forward that can change an output.",
        "",
        "| rule | parameters (classes) |",
        "| --- | --- |",
    ]
    for rule, names in sorted(rules.items(), key=lambda item: -sum(item[1].values())):
        listed = ", ".join(f"`{name}` {count}" for name, count in sorted(names.items(), key=lambda one: -one[1]))
        lines.append(f"| {rule} | {listed} |")
    lines += ["", "## Classes without their whole interface", "", "| class | reason |", "| --- | --- |"]
    lines += [f"| {name} | {message} |" for name, message in sorted(failed.items())]
    return "\n".join(lines) + "\n"
