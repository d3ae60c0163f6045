"""Write the results of all classes as `docs/classes.md`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from conformance.exports import PASSED
from conformance.matrix.page import reason

PAGE = Path("docs/classes.md")
_HEAD = """# Classes

`python -m conformance classes` exports every class of Transformers that has a forward and a configuration, as the
`architectures` of a checkpoint names it: a tiny checkpoint of seeded random weights without preprocessor files, no task
named. A class passes if every tensor of its forward that can change an output is an input, if the export validates, and
if `onnxport.load` returns what the model returns for other random inputs: its outputs, and for a class that generates,
24 greedy tokens of `generate` after prompts of 9 tokens, one with padding; windows of attention are 16 tokens long. The
command writes this page.
"""
_MEANINGS = """*make*: no tiny checkpoint could be made, or a package isn't installed; *describe*: the inputs aren't
supported; *bind*, *trace*, *convert*: no graph could be made; *validate*: the graph's outputs differ; *interface*: a
tensor is missing among the inputs; *use*: what `onnxport.load` returns differs; *crash*, *timeout*: anything else.
"""


def publish(records: Iterable[Mapping[str, Any]], page: Path = PAGE, note: str = "") -> None:
    """Write the page.

    Args:
        records: results of classes.
        page: the Markdown file.
        note: a sentence about the run, such as packages that it had.
    """
    page.write_text(text_of(list(records), note), encoding="utf-8")


def text_of(records: list[Mapping[str, Any]], note: str) -> str:
    """Return the Markdown text of the page."""
    commits = ", ".join(sorted({record["commit"] for record in records if "commit" in record}))  # a crash has none
    passed = [record for record in records if record["status"] == PASSED]
    compared = sum(bool(record.get("used")) for record in passed)
    generated = sum(bool(record.get("generated")) for record in passed)
    counts = Counter(_outcome(record) for record in records if record["status"] != PASSED)
    lines = [
        _HEAD,
        f"At commit {commits}, {len(passed)} of {len(records)} classes pass ({len(passed) / len(records):.1%});",
        f"the outputs of {compared} were compared through `onnxport.load`, the generated tokens of {generated}.",
        f"The others: {', '.join(f'{count} {category}' for category, count in counts.most_common()) or 'none'}.",
        *([note] if note else []),
        "",
        _MEANINGS,
        "| category | reason | classes |",
        "| --- | --- | --- |",
    ]
    classes: dict[tuple[str, str], list[str]] = defaultdict(list)
    for record in records:
        if record["status"] != PASSED:
            classes[_outcome(record), reason(dict(record))].append(record["class"])
    lines += [
        f"| {category} | {text} | {', '.join(sorted(names))} |" for (category, text), names in sorted(classes.items())
    ]
    return "\n".join(lines) + "\n"


def _outcome(record: Mapping[str, Any]) -> str:
    return str(record.get("category", record["status"]))
