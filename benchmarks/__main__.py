"""Measure time and memory of exports, compare them with other exporters, and write docs/benchmarks.md.

python -m benchmarks measure [--rows a,b] [--runs 5] [--models bert-base,gpt2] [--without genai] [--gigabytes 30]
python -m benchmarks page        # writes docs/benchmarks.md, and docs/benchmarks.json with all figures
python -m benchmarks clean       # removes the large checkpoint; with `all`, everything
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys

from benchmarks import decoding, generation
from benchmarks.checkpoints import LARGE, SHAPES
from benchmarks.environments import set_up
from benchmarks.page import page, section
from benchmarks.results import load, machine, save
from benchmarks.rounds import Bench, Measured, tell
from benchmarks.rows import ROWS, Cell, groups
from benchmarks.sides import OTHERS, REPOSITORY, SIDES, WORK


def main() -> int:
    """Run the command; return 1 if a side failed."""
    arguments = _parser().parse_args()
    if arguments.verb == "measure":
        return _measure(arguments)
    if arguments.verb == "page":
        return _page()
    large = sorted((WORK / "checkpoints").glob(f"{LARGE}*"))
    for directory in [WORK] if arguments.what == "all" else large:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


def _measure(arguments: argparse.Namespace) -> int:
    bench = Bench(WORK, gigabytes=arguments.gigabytes, limit=arguments.limit)

    def is_selected(cell: Cell) -> bool:
        return cell[0] in arguments.models and cell[1] not in arguments.without

    plan = groups(arguments.rows, is_selected)
    _set_up([cell for _, cells in plan for cell in cells], bench)
    environment = machine(bench)
    measured: dict[str, dict[Cell, Measured]] = {key: {} for key in arguments.rows}
    for keys, cells in plan:
        found: dict[Cell, Measured] = {}

        def keep(keys: tuple[str, ...] = keys, found: dict[Cell, Measured] = found) -> None:
            for key in keys:
                measured[key].update({cell: found[cell] for cell in ROWS[key].cells if cell in found})
                save(key, measured[key], (bench, arguments.runs, environment))

        bench.measure(cells, arguments.runs, found, keep)
    if not arguments.keep:
        for directory in (WORK / "checkpoints").glob(f"{LARGE}*"):
            shutil.rmtree(directory, ignore_errors=True)
    rows = load(WORK)
    print("\n".join(section(key, rows[key]) for key in arguments.rows if key in rows))
    return int(any(cell.failure for row in measured.values() for cell in row.values()))


def _set_up(cells: list[Cell], bench: Bench) -> None:
    """Create environments and checkpoints before measuring; the cells of those that fail have the error, too."""
    for name in dict.fromkeys(SIDES[side].environment for _, side in cells):
        try:
            if name:
                set_up(name, bench.work / "environments")
        except RuntimeError as error:
            tell(str(error))
    for model in dict.fromkeys(model for model, _ in cells):
        try:
            bench.checkpoint(model)
        except RuntimeError as error:
            tell(str(error))


def _page() -> int:
    rows = load(WORK)
    if not rows:
        tell("there are no results yet; run `make bench`")
        return 1
    text = page(rows)
    for part in (generation, decoding):
        if part.RESULT.is_file():
            text += "\n" + part.section(json.loads(part.RESULT.read_text(encoding="utf-8")))
    (REPOSITORY / "docs" / "benchmarks.md").write_text(text, encoding="utf-8")
    (REPOSITORY / "docs" / "benchmarks.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


def _comma_separated(choices: tuple[str, ...]) -> object:
    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",") if name.strip()]
        unknown = [name for name in names if name not in choices]
        if unknown or not names:
            raise argparse.ArgumentTypeError(f"{text!r} isn't a comma-separated list of {', '.join(choices)}")
        return names

    return parse


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    measure = verbs.add_parser("measure", help="measure, print the table, store the results")
    add = measure.add_argument
    add("--rows", type=_comma_separated(tuple(ROWS)), default=list(ROWS), help="comma-separated rows, a to g (all)")
    add("--runs", type=int, default=5, help="number of rounds (5)")
    add(
        "--models", type=_comma_separated(tuple(SHAPES)), default=list(SHAPES), help="comma-separated checkpoints (all)"
    )
    add("--without", type=_comma_separated(OTHERS), default=[], help="comma-separated exporters to skip")
    add("--gigabytes", type=float, default=30.0, help="size of the large checkpoint (30); its export is as large")
    add("--limit", type=float, default=3600.0, help="time limit of a side in seconds (3600)")
    add("--keep", action="store_true", help="keep the large checkpoint")
    verbs.add_parser("page", help="write docs/benchmarks.md and docs/benchmarks.json")
    clean = verbs.add_parser("clean", help="remove the large checkpoint")
    clean.add_argument("what", nargs="?", choices=("large", "all"), default="large")
    return parser


if __name__ == "__main__":
    sys.exit(main())
