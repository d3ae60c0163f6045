"""Format results as Markdown, for the terminal and `docs/benchmarks.md`."""

from __future__ import annotations

from typing import Any

from benchmarks.measure import Cost
from benchmarks.results import Row, medians
from benchmarks.rows import ALLOWANCE, ROWS, TENSORS, Comparison
from benchmarks.sides import SIDES

_HEAD = """\
# Benchmarks

Written by `python -m benchmarks page` from the results of `make bench` ([method](../benchmarks/README.md)). Times are
those of whole processes, including imports: medians, with minimum and maximum in parentheses. The sides are run
interleaved. The checkpoints have seeded random weights. Peak memory is the peak resident set size of a process.
"""


def page(rows: dict[str, Row]) -> str:
    """Return the page of all rows."""
    missing = [key for key in ROWS if key not in rows]
    parts = [_HEAD, *(section(key, row) for key, row in rows.items())]
    if missing:
        parts.append(f"Not measured yet: {', '.join(f'{key} ({ROWS[key].title})' for key in missing)}.\n")
    return "\n".join(parts)


def section(key: str, row: Row) -> str:
    """Return the section of one row: comparisons, figures of each side, machine."""
    return "\n".join(
        [
            f"## {key}. {ROWS[key].title}",
            "",
            *_comparisons(key, row),
            "",
            *_sides(row),
            "",
            *_where(row),
        ]
    )


def _comparisons(key: str, row: Row) -> list[str]:
    lines = ["| checkpoint | what | against | measured | to reach | reached |", "| --- | --- | --- | --- | --- | --- |"]
    measured = {(cell["model"], cell["side"]) for cell in row["cells"]}
    for each in ROWS[key].comparisons:
        if each.ours not in measured or each.theirs not in measured:
            continue
        other = "" if each.theirs[0] == each.ours[0] else f"{each.theirs[0]}, "
        what, against = SIDES[each.ours[1]].label, other + SIDES[each.theirs[1]].label
        lines.append(f"| {each.ours[0]} | {what} | {against} | {' | '.join(_judge(each, row))} |")
    return lines


def _judge(each: Comparison, row: Row) -> tuple[str, str, str]:
    """Return the measured figures, the target, and whether it was reached."""
    costs = medians(row)
    ours, theirs = costs.get(each.ours), costs.get(each.theirs)
    if each.figure == "memory":
        return _judge_memory(each, row, (ours, theirs))
    plus = f" + {each.plus:g} s" if each.plus else ""
    target = "no figure set" if each.factor is None else f"≤ {each.factor:.3g} x{plus}"
    if ours is None or theirs is None:
        return "failed, see below", target, "no" if ours is None else "nothing to compare with"
    ratio = f"{ours.seconds:.2f} s / {theirs.seconds:.2f} s = {ours.seconds / theirs.seconds:.3g}"
    if each.factor is None:
        return ratio, target, ""
    return ratio, target, "yes" if ours.seconds <= each.factor * theirs.seconds + each.plus else "**no**"


def _judge_memory(each: Comparison, row: Row, costs: tuple[Cost | None, Cost | None]) -> tuple[str, str, str]:
    ours, theirs = costs
    largest = row["models"][each.ours[0]].get("largest", 0)
    limit = ALLOWANCE + TENSORS * largest
    target = f"≤ {limit / 1e6:.0f} MB (300 MB + 2 x {largest / 1e6:.0f} MB)"
    if ours is None or theirs is None:
        return "failed, see below", target, "no"
    above = ours.peak - theirs.peak
    difference = f"{ours.peak / 1e6:.0f} - {theirs.peak / 1e6:.0f} = {above / 1e6:.0f} MB"
    return difference, target, "yes" if above <= limit else "**no**"


def _sides(row: Row) -> list[str]:
    lines = [
        "| checkpoint | side | seconds | of processors | peak memory, GB | written, MB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    costs = medians(row)
    for cell in row["cells"]:
        start = f"| {cell['model']} | {SIDES[cell['side']].label} |"
        middle = costs.get((cell["model"], cell["side"]))
        if middle is None:
            reason = (cell["failure"] or "not measured").replace("|", "/").replace("\n", " ").replace("`", "'")
            lines.append(f"{start} failed: {reason} | | | |")
            continue
        each = [cost["seconds"] for cost in cell["costs"]]
        spread = f" ({min(each):.2f} to {max(each):.2f})" if len(each) > 1 else ""
        printed = f"; {cell['said']}" if cell["said"] else ""
        seconds = f"{middle.seconds:.2f}{spread}{printed} | {middle.processor:.1f}"
        figures = f"{seconds} | {middle.peak / 1e9:.2f} | {middle.written / 1e6:.1f}"
        lines.append(f"{start} {figures} |")
    return lines


def _where(row: Row) -> list[str]:
    """Return date and machine of each checkpoint's figures, equal ones in one line."""
    found: dict[str, list[str]] = {}
    for model, about in row["models"].items():
        sides = {cell["side"] for cell in row["cells"] if cell["model"] == model}
        found.setdefault(_conditions(about, {SIDES[side].environment for side in sides}), []).append(model)
    return [f"{', '.join(models)}: {text}\n" for text, models in found.items()]


def _conditions(about: dict[str, Any], environments: set[str]) -> str:
    machine = about["machine"]
    tools = "; ".join(
        f"{name}: {', '.join(f'{package} {version}' for package, version in packages.items())}"
        for name, packages in machine["versions"].items()
        if packages and name in {"onnxport", *environments}
    )
    where = (
        f"{machine['cores']} cores ({machine['processor']})",
        f"{machine['memory'] / 2**30:.0f} GiB of memory",
        machine["system"],
        f"load {machine['load before']:.1f} before",
        f"Python {machine['python']}",
    )
    return f"{about['date']}, commit {about['commit']}, rounds: {about['runs']}. {', '.join(where)}. {tools}."
