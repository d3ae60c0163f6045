"""Measure whole exports, imports included: wall seconds, peak memory, bytes written. Medians of several runs.

    python -m benchmarks.export_time [--models bert-base gpt2] [--runs 3] [--against optimum mobius]

Tools take turns within a run, so that a busy minute hits all of them. Other exporters get environments of their own,
made on the first use. The table goes to standard output and, with every single figure, to the results file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.checkpoints import SHAPES, make
from benchmarks.measure import Cost, median, run
from benchmarks.tools import OURS, TOOLS, command, set_up

WORK = Path(__file__).resolve().parent.parent / ".cache" / "bench"
Results = dict[str, dict[str, list[Cost]]]


def main() -> int:
    """Measure what the command line asks for; return 1 where something failed."""
    arguments = _parser().parse_args()
    tools = [*OURS, *arguments.against]
    (WORK / "logs").mkdir(parents=True, exist_ok=True)
    for tool in tools:
        set_up(tool, WORK / "environments")
    results: Results = {}
    failures: list[str] = []
    for model in arguments.models:
        checkpoint = make(model, WORK / "checkpoints")
        costs = results.setdefault(model, {tool: [] for tool in tools})
        for number in range(arguments.runs):
            for tool in tools:
                try:
                    costs[tool].append(_measure(tool, model, checkpoint))
                except RuntimeError as error:
                    failures.append(f"{tool}, {model}: {error}")
                else:
                    _tell(f"{model}, {tool}, run {number + 1}: {costs[tool][-1].seconds:.1f} s")
    print(_table(results, arguments.runs))
    _save(results, arguments.results)
    for failure in failures:
        _tell(f"failed: {failure}")
    return int(bool(failures))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES), metavar="MODEL")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--against", nargs="+", choices=[name for name in TOOLS if name not in OURS], default=[])
    parser.add_argument("--results", type=Path, default=WORK / "export_time.json")
    return parser


def _measure(tool: str, model: str, checkpoint: Path) -> Cost:
    output = WORK / "output"
    shutil.rmtree(output, ignore_errors=True)
    values = {"model": str(checkpoint), "output": str(output), "task": SHAPES[model].task}
    try:
        return run(command(tool, WORK / "environments", values), output, WORK / "logs" / f"{model}-{tool}.log")
    finally:
        shutil.rmtree(output, ignore_errors=True)


def _table(results: Results, runs: int) -> str:
    lines = [
        f"Medians of {runs} whole processes; {os.cpu_count()} cores, Python {platform.python_version()}.",
        "",
        "| model | tool | seconds | peak memory, GB | written, MB |",
        "| --- | --- | --- | --- | --- |",
    ]
    for model, costs in results.items():
        for tool, measured in costs.items():
            name = f"{tool} ({TOOLS[tool].note})"
            if not measured:
                lines.append(f"| {model} | {name} | failed | | |")
                continue
            middle = median(measured)
            figures = f"{middle.seconds:.1f} | {middle.peak / 1e9:.2f} | {middle.written / 1e6:.1f}"
            lines.append(f"| {model} | {name} | {figures} |")
    return "\n".join(lines)


def _save(results: Results, file: Path) -> None:
    plain = {model: {tool: [asdict(c) for c in costs] for tool, costs in row.items()} for model, row in results.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
