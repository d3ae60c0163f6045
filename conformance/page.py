"""Format results as a page of the documentation, and as a summary for the terminal."""

from __future__ import annotations

from typing import Any

from conformance.pairs import pairs, table
from conformance.runner import messages

_HEAD = """# Conformance with `transformers.onnx` 4.37.2

`make conformance` exports every (model type, feature) pair that 4.37.2 supported, each from a tiny checkpoint with
seeded random weights, in two ways:

- *façade*: `FeaturesManager`, `onnxport.onnx.export` and `validate_model_outputs`, as a user of 4.37.2 called them;
- *command*: `onnxport export`, whose validation compares every output at four sizes or more.

4.37.2 itself, run on the same pairs with today's PyTorch, validated 256 of 265. Tiny random weights show that a graph
returns the same outputs; they don't show which tolerances trained weights need. `python -m conformance page` writes
this page.
"""


_FIXED = """Axes that are dynamic in 4.37.2's descriptions and that today's models fix; they are static in the graph,
and listed in the manifest and by the command.
"""
_REFUSED = """Sizes of a validation at which the original model raises an error, and which therefore aren't compared.
"""


def page(records: list[dict[str, Any]]) -> str:
    """Return the Markdown page of these records."""
    by_pair = {(record["model_type"], record["feature"]): record for record in records}
    lines = [_HEAD, "## Totals", "", "| | passed | failed | not run |", "| --- | --- | --- | --- |"]
    for title, export in (("façade", "facade"), ("command", "public"), ("both", None)):
        passed = sum(_passed(record, export) for record in records)
        lines.append(f"| {title} | {passed} | {len(records) - passed} | {len(pairs()) - len(records)} |")
    lines += ["", "## By model type", "", "| model type | features | façade | command |", "| --- | --- | --- | --- |"]
    for model_type, entry in table().items():
        found = [by_pair[model_type, feature] for feature in entry["features"] if (model_type, feature) in by_pair]
        facade, public = (sum(_passed(record, export) for record in found) for export in ("facade", "public"))
        lines.append(f"| {model_type} | {len(entry['features'])} | {facade} | {public} |")
    lines += ["", "## Axes that a model fixes", "", _FIXED, *_remarks(records, "fixed_axes")]
    lines += ["", "## Sizes at which the original fails", "", _REFUSED, *_remarks(records, "refused")]
    lines += ["", "## Failures", ""]
    failed = [record for record in records if record["status"] != "passed"]
    for record in failed:
        lines.append(f"- `{record['model_type']}:{record['feature']}` {record['status']}")
        lines += [f"  - `{message}`" for message in messages(record)]
    return "\n".join([*lines, *([] if failed else ["None."])]) + "\n"


def summary(records: list[dict[str, Any]]) -> str:
    """Return the totals and the failed pairs as plain text."""
    failed = [record for record in records if record["status"] != "passed"]
    lines = [f"{record['model_type']}:{record['feature']}  {'; '.join(messages(record))[:200]}" for record in failed]
    seconds = sum(record["seconds"] for record in records)
    lines.append(f"{len(records) - len(failed)} passed, {len(failed)} failed, {seconds:.0f} s of work")
    return "\n".join(lines)


def _remarks(records: list[dict[str, Any]], key: str) -> list[str]:
    """List the entries of the command's manifests under a key, one line for each model type and entry."""
    found: dict[tuple[str, str], list[str]] = {}
    for record in records:
        remarks = record.get("public", {}).get(key) or ()
        if remarks:
            text = "; ".join(" ".join(str(remark).split())[:160] for remark in remarks)
            found.setdefault((record["model_type"], text), []).append(record["feature"])
    lines = [f"- {model_type} ({', '.join(features)}): {text}" for (model_type, text), features in found.items()]
    return lines or ["None."]


def _passed(record: dict[str, Any], export: str | None) -> bool:
    return bool((record if export is None else record.get(export, {})).get("status") == "passed")
