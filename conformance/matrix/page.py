"""Write the matrix's results as `docs/coverage.md`, `docs/coverage.json` and the data of `onnxport list`."""

from __future__ import annotations

import datetime
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from conformance.exports import PASSED
from conformance.matrix.own_code import own_code
from conformance.matrix.pairs import FAMILIES, family, pairs
from conformance.matrix.predecessors import GONE, predecessors
from onnxport.description.coverage import PATH
from onnxport.description.tasks import PAST_SUFFIX

Record = dict[str, Any]
COVERAGE = Path("docs/coverage.md")
PACKAGES = ("onnxport", "transformers", "torch", "onnxscript", "onnx-ir", "onnxruntime")
CATEGORIES = ("make", "describe", "bind", "trace", "convert", "validate", "interface", "crash", "timeout")
REPEATED = 4
"""Number of repeated layers from which a model counts for the share of stamped pairs."""

_HEAD = """# Coverage

`python -m conformance matrix` runs `onnxport export` for every (model type, task) pair of Transformers' Auto classes,
with a tiny checkpoint of seeded random weights, whose configuration is shrunk by general rules. Validation compares
every output at sizes other than the traced ones. Generative models are exported a second time with their KV cache.
The command writes this page, and `coverage.json` with all records.

Tiny random weights show that a graph returns the same outputs; they don't show which tolerances trained weights need.
"""
_MEANINGS = """Categories of failures: *make*, no tiny checkpoint could be made; *describe*, the inputs or the cache
aren't supported yet; *bind*, parameters and tensors don't match; *trace*, `torch.export` can't trace the model;
*convert*, an operator has no translation to ONNX; *validate*, ONNX Runtime rejects the graph, or its outputs differ;
*interface*, the graphs don't take a modality of the task; *crash*, any other error.
"""


def publish(records: list[Record], page: Path, note: str = "") -> None:
    """Write the page with its JSON and, if it is the documentation's page, the data of `onnxport list`.

    Args:
        records: results of pairs.
        page: the Markdown file.
        note: a sentence about the run.
    """
    write_page(records, page, note)
    if page == COVERAGE:
        write_validated(records)


def write_page(records: Iterable[Record], page: Path, note: str = "") -> None:
    """Write the page, and the records as JSON next to it.

    Args:
        records: results of pairs.
        page: the Markdown file; the JSON file has the same name with the suffix `.json`.
        note: a sentence about the run.
    """
    found = sorted(records, key=lambda record: (record["model_type"], record["task"]))
    page.write_text(text_of(found, _today(), _versions(), note), encoding="utf-8")
    lines = [json.dumps(_plain(record), sort_keys=True) for record in found]
    _write_lines(page.with_suffix(".json"), '"records": [', lines, "]")


def write_validated(records: Iterable[Record], path: Path = PATH) -> None:
    """Write the data of `onnxport list`: for each model type, the validated tasks and the reasons of failures.

    Args:
        records: results of pairs, from the page's JSON or from a run.
        path: the JSON file.
    """
    types: dict[str, dict[str, Any]] = defaultdict(lambda: {"tasks": []})
    for record in sorted(records, key=lambda record: (record["model_type"], record["task"])):
        entry, task = types[record["model_type"]], record["task"]
        if record["status"] != PASSED:
            entry.setdefault("failed", {})[task] = reason(record)
            continue
        entry["tasks"].append(task)
        if record["fixed_axes"]:
            entry.setdefault("fixed_axes", {})[task] = record["fixed_axes"]
    lines = [f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in types.items()]
    _write_lines(path, '"types": {', lines, "}")


def _write_lines(path: Path, start: str, lines: list[str], end: str) -> None:
    """Write JSON with the date, the versions, and one item on each line, so that diffs are readable."""
    head, items = json.dumps({"date": _today(), "versions": _versions()})[:-1], ",\n".join(lines)
    path.write_text(f"{head}, {start}\n{items}\n{end}}}\n", encoding="utf-8")


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in PACKAGES}


def text_of(records: list[Record], date: str, versions: dict[str, str], note: str = "") -> str:
    """Return the Markdown text of the page."""
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    commits = ", ".join(sorted({record["commit"] for record in records if "commit" in record}))  # a crash has none
    run = f"Run at commit {commits}, {date}, with {named}: {len(records)} of {len(pairs())} pairs."
    lines = [_HEAD, f"{run} {note}".strip(), "", "## Figures", "", *_figures(records)]
    lines += ["", "## By predecessor", "", *_predecessors(records)]
    lines += ["", "## By family", "", *_table(records, "family of tasks", lambda r: family(r["task"]), [*FAMILIES])]
    tasks = list(dict.fromkeys(task for _, task in pairs()))
    lines += ["", "## By task", "", *_table(records, "task", lambda r: r["task"], tasks)]
    lines += ["", "## Failures", "", _MEANINGS, *_failures(records)]
    return "\n".join(lines) + "\n"


def _figures(records: list[Record]) -> list[str]:
    passed = [record for record in records if record["status"] == PASSED]
    types = {record["model_type"] for record in records}
    validated_tasks = {record["model_type"] for record in passed}
    deep = [record for record in passed if record.get("repeated", 0) >= REPEATED]
    sequences = [record for record in passed if record.get("length") is not None]
    rows = (
        ("model types that export and validate for at least one task", len(validated_tasks), len(types)),
        ("(model type, task) pairs that export and validate", len(passed), len(records)),
        ("exported pairs with a dynamic batch size", sum(bool(r["batch"]) for r in passed), len(passed)),
        (
            "exported pairs with token ids and a dynamic sequence length",
            sum(bool(r["length"]) for r in sequences),
            len(sequences),
        ),
        (
            f"exported pairs with stamped layers, of those with {REPEATED} or more isomorphic layers",
            _count(deep, "stamped"),
            len(deep),
        ),
    )
    seconds = sum(record["seconds"] for record in records)
    custom = own_code()
    lines = ["| | count | of | share |", "| --- | --- | --- | --- |"]
    lines += [f"| {title} | {count} | {total} | {_share(count, total)} |" for title, count, total in rows]
    return [
        *lines,
        "",
        f"{len(custom)} model types have custom code: {', '.join(custom)}. All others are exported by general code.",
        "",
        f"One worker took {seconds / 60:.0f} minutes, {seconds / max(len(records), 1):.1f} s for a pair.",
    ]


def _table(records: list[Record], title: str, key: Any, order: list[str]) -> list[str]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        counts[key(record)][_outcome(record)] += 1
    lines = [f"| {title} | pairs | passed | share | {' | '.join(CATEGORIES)} |", "| --- " * (4 + len(CATEGORIES)) + "|"]
    for name in [name for name in order if name in counts] + sorted(set(counts) - set(order)):
        outcomes = counts[name]
        cells = [str(outcomes[category] or "") for category in CATEGORIES]
        share = _share(outcomes["passed"], outcomes.total())
        lines.append(f"| {name} | {outcomes.total()} | {outcomes['passed']} | {share} | {' | '.join(cells)} |")
    return lines


def _predecessors(records: list[Record]) -> list[str]:
    """Return a table of the predecessors' pairs: how many pass, and the others with their outcome."""
    outcomes = {(record["model_type"], record["task"]): _outcome(record) for record in records}
    lines = ["| pairs of | pairs | passed | share | others |", "| --- " * 5 + "|"]
    for name, theirs in predecessors().items():
        existing = [pair for pair in theirs if pair not in GONE]
        passed = [pair for pair in existing if outcomes.get(pair) == PASSED]
        others = [f"{':'.join(pair)} ({outcomes.get(pair, 'not run')})" for pair in existing if pair not in passed]
        share = _share(len(passed), len(existing))
        lines.append(f"| {name} | {len(existing)} | {len(passed)} | {share} | {', '.join(others)} |")
    gone = "; ".join(f"{':'.join(pair)}: {why}" for pair, why in GONE.items())
    return [*lines, "", f"Pairs that no longer exist are omitted. {gone}."]


def _failures(records: list[Record]) -> list[str]:
    """Return a table of the reasons of failures with their pairs, the most frequent first."""
    found: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record["status"] != PASSED:
            task = record["task"].replace(PAST_SUFFIX, "+past")
            found[_outcome(record), reason(record)][record["model_type"]].append(task)
    order = sorted(found.items(), key=lambda item: (CATEGORIES.index(item[0][0]), -len(item[1]), item[0]))
    lines = ["| category | reason | pairs |", "| --- | --- | --- |"]
    for (category, text), types in order:
        named = "; ".join(f"{model_type}: {', '.join(tasks)}" for model_type, tasks in types.items())
        lines.append(f"| {category} | {text} | {named} |")
    return lines if found else ["None."]


def reason(record: Record) -> str:
    """Return the reason of a failure as the text of a table cell, without colours, paths and markup."""
    text = re.sub(r"\x1b\[\d*m|\[\d+m", "", str(record.get("message", "")))
    text = re.sub(r"\(this is a bug, run with --debug for the traceback\)", "", text)
    text = re.sub(r"(?<!\w)/\S+/([\w.-]+)", r"\1", " ".join(text.split()))
    return text[:160].replace("|", "\\|").replace("<", "&lt;").strip()


def _outcome(record: Record) -> str:
    status = record["status"]
    return str(record["category"] if status == "failed" else {"crashed": "crash"}.get(status, status))


def _plain(record: Record) -> Record:
    """Return a record without the fields that depend on the machine."""
    omitted = ("trace", "inputs", "seconds", "notes", "cases", "commit")
    plain = {name: value for name, value in record.items() if name not in omitted}
    return {**plain, "message": reason(record)} if "message" in plain else plain


def _count(records: list[Record], name: str) -> int:
    return sum(bool(record[name]) for record in records)


def _share(count: int, total: int) -> str:
    return f"{100 * count / total:.1f} %" if total else ""
