"""Run `make DIR`, `run` and `page` for the pairs of 4.37.2; the other verbs for pairs and classes of today."""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from conformance.matrix.page import COVERAGE, publish
from conformance.matrix.pairs import chosen
from conformance.matrix.pairs import pairs as all_pairs
from conformance.matrix.sample import WIDE
from conformance.page import page, summary
from conformance.pairs import SAMPLE, pairs, parse
from conformance.runner import PAIR_SECONDS, Job, Pair, read, run

_WORK = Path("build/conformance")
_MATRIX = Path("build/matrix")
_CLASSES = Path("build/classes")
_INTERFACES = Path("build/interfaces")
_VARIANTS = Path("build/variants")
MATRIX = Job("conformance.matrix.exports:run_matrix_pair", "task")
CLASSES = Job("conformance.matrix.classes:run_class", "class")
VARIANTS = Job("conformance.matrix.variants:run_variants", "task")
INTERFACES = Job("conformance.matrix.interfaces:describe_class", "class")
_PAGE = Path("docs/conformance-4.37.md")


def main() -> int:
    """Run the command; return 1 if a pair failed."""
    arguments = _parser().parse_args()
    if arguments.verb == "make":
        from conformance.checkpoints import make_all

        print(f"{make_all(arguments.directory)} checkpoints in {arguments.directory}")
        return 0
    if arguments.verb == "page":
        found = read(arguments.results)
        arguments.page.write_text(page([found[pair] for pair in pairs() if pair in found]), encoding="utf-8")
        return 0
    if arguments.verb == "coverage":
        known = set(all_pairs())
        publish(
            [record for pair, record in read(arguments.results, MATRIX.key).items() if pair in known],
            arguments.page,
            arguments.note,
        )
        return 0
    if arguments.verb == "classes":
        return _run_classes(arguments)
    if arguments.verb == "interfaces":
        return _run_interfaces(arguments)
    if arguments.verb == "variants":
        from conformance.matrix.variants import ARCHITECTURES

        types = arguments.types.split(",") if arguments.types else [model_type for model_type, _ in ARCHITECTURES]
        return _summarize(_records([pair for pair in ARCHITECTURES if pair[0] in types], arguments, VARIANTS))
    return _run_matrix(arguments) if arguments.verb == "matrix" else _run(arguments)


def _run_classes(arguments: argparse.Namespace) -> int:
    from conformance.matrix.class_page import publish as publish_classes
    from conformance.matrix.classes import classes

    found = list(classes())
    if arguments.sample:
        found = random.Random(arguments.seed).sample(found, arguments.sample)
    records = _records(found, arguments, CLASSES)
    if not arguments.sample:
        publish_classes(records, note=arguments.note)
    return _summarize(records)


def _run_interfaces(arguments: argparse.Namespace) -> int:
    from conformance.matrix.classes import classes
    from conformance.matrix.interfaces import publish as publish_interfaces

    records = _records(list(classes()), arguments, INTERFACES)
    publish_interfaces(records)
    return _summarize(records)


def _run_matrix(arguments: argparse.Namespace) -> int:
    found = list(WIDE) if arguments.sample else chosen(arguments.tasks, arguments.types)
    records = _records(found, arguments, MATRIX)
    if set(found) == set(all_pairs()):
        publish(records, COVERAGE)
    return _summarize(records)


def _records(pairs: list[Pair], arguments: argparse.Namespace, job: Job | None = None) -> list[dict[str, Any]]:
    """Run pairs with the options of a verb, and return their records."""
    if not arguments.resume:
        arguments.results.unlink(missing_ok=True)
    return run(
        pairs,
        directory=arguments.directory,
        results=arguments.results,
        jobs=arguments.jobs,
        seconds=arguments.seconds,
        job=job,
    )


def _summarize(records: list[dict[str, Any]]) -> int:
    """Print the number of records of each outcome; return 1 if any failed."""
    counts = Counter(record.get("category", record["status"]) for record in records)
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.most_common()), file=sys.stderr)
    return int(any(record["status"] != "passed" for record in records))


def _run(arguments: argparse.Namespace) -> int:
    chosen = parse(arguments.pairs) if arguments.pairs else list(SAMPLE) if arguments.sample else pairs()
    records = _records(chosen, arguments)
    if set(chosen) == set(pairs()):
        _PAGE.write_text(page(records), encoding="utf-8")
    print(summary(records), file=sys.stderr)
    return int(any(record["status"] != "passed" for record in records))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    make = verbs.add_parser("make", help="write the tiny checkpoints of all pairs")
    make.add_argument("directory", type=Path)
    runs = verbs.add_parser("run", help="export pairs; all of them by default")
    runs.add_argument("--pairs", help="comma-separated type:feature, or type for all its features")
    runs.add_argument("--sample", action="store_true", help="the fixed sample that the tests run")
    matrix = verbs.add_parser("matrix", help="export every (model type, task) pair of the Auto classes")
    matrix.add_argument("--tasks", help="comma-separated tasks; all by default")
    matrix.add_argument("--types", help="comma-separated model types; all by default")
    matrix.add_argument("--sample", action="store_true", help="a fixed sample over all tasks and families")
    class_runs = verbs.add_parser("classes", help="export classes of Transformers without a task or a preprocessor")
    class_runs.add_argument("--sample", type=int, metavar="N", help="N random classes; all by default")
    class_runs.add_argument("--seed", type=int, default=0, help="seed of the sample")
    class_runs.add_argument("--note", default="", help="a sentence about the run for the page")
    interfaces = verbs.add_parser(
        "interfaces", help="describe all classes of Transformers, and write docs/interfaces.md"
    )
    variants = verbs.add_parser("variants", help="export fixed architectures in every precision and fused form")
    variants.add_argument("--types", help="comma-separated model types; all by default")
    works = ((runs, _WORK), (matrix, _MATRIX), (class_runs, _CLASSES), (interfaces, _INTERFACES), (variants, _VARIANTS))
    for verb, work in works:
        verb.add_argument("--jobs", type=int, default=2, help="worker processes")
        verb.add_argument("--seconds", type=float, default=PAIR_SECONDS, help="time limit for one of them")
        verb.add_argument("--results", type=Path, default=work / "results.jsonl", help="file of JSON lines")
        verb.add_argument("--resume", action="store_true", help="run only those that the results file lacks")
        verb.add_argument("--directory", type=Path, default=work, help="directory of checkpoints and outputs")
    documentation = verbs.add_parser("page", help="write docs/conformance-4.37.md from a results file")
    documentation.add_argument("--results", type=Path, default=_WORK / "results.jsonl")
    documentation.add_argument("--page", type=Path, default=_PAGE)
    coverage = verbs.add_parser("coverage", help="write docs/coverage.md from a results file of the matrix")
    coverage.add_argument("--results", type=Path, default=_MATRIX / "results.jsonl")
    coverage.add_argument("--page", type=Path, default=COVERAGE)
    coverage.add_argument("--note", default="", help="a sentence about the run, for the page")
    return parser


if __name__ == "__main__":
    sys.exit(main())
