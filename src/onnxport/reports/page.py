"""Write one HTML file, without scripts and links to other files, that shows an exported directory."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from onnxport.bundles.inspection import inspect
from onnxport.bundles.manifest import Manifest, open_manifest
from onnxport.checkpoint.json_files import read_json_object
from onnxport.checkpoint.typed_values import typed
from onnxport.errors import CorruptCheckpointError, OptionError
from onnxport.reports.differences import TICKS, TOLERANCE, difference_tables
from onnxport.reports.formats import axes_text, bytes_text
from onnxport.reports.precisions import precisions
from onnxport.runtime.bench import Measurements
from onnxport.validation.report import ValidationReport

FILE_NAME = "report.html"
_OPERATORS = 16
"""Number of operators of a graph that are shown one by one."""


def write_report(directory: Path, target: Path, measured: Path | None = None) -> None:
    """Write the page.

    Args:
        directory: one that `onnxport export` wrote.
        target: the HTML file.
        measured: what `onnxport bench --json` printed for the directory; None to show no speed.

    Raises:
        CheckpointNotFoundError: a file doesn't exist, or `directory` wasn't written by onnxport.
        CorruptCheckpointError: a file is damaged.
        OptionError: `measured` has precisions that the directory lacks, or `target` can't be written.
    """
    manifest = open_manifest(directory)
    speeds = {} if measured is None else _read_measurements(measured, manifest)
    text = page(manifest, _operators(directory), speeds)
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OptionError(f"{target} can't be written: {error.strerror or error}; name another file") from error


def page(manifest: Manifest, operators: Mapping[str, Mapping[str, int]], speeds: Mapping[str, Measurements]) -> str:
    """Return the page's text.

    Args:
        manifest: the directory's manifest.
        operators: file of a graph to its operators and their number.
        speeds: precision to what was measured; empty if nothing was.

    Raises:
        CorruptCheckpointError: the manifest's validation is damaged.
    """
    import jinja2

    try:
        report = typed(manifest.validation, ValidationReport, "validation")
    except ValueError as error:
        raise CorruptCheckpointError(f"onnxport.json is damaged: {error}; export the model again") from error
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"bytes": bytes_text, "shape": axes_text, "brief": _brief}
    template = environment.from_string(files("onnxport.reports").joinpath("report.html.jinja").read_text("utf-8"))
    variants = precisions(manifest, report, speeds)
    return template.render(
        manifest=manifest,
        report=report,
        tables=difference_tables(report),
        ticks=TICKS,
        tolerance=TOLERANCE,
        variants=variants,
        has_speeds=any(variant.speeds for variant in variants),
        operators={file: _most_frequent(counts) for file, counts in operators.items()},
    )


def _operators(directory: Path) -> dict[str, dict[str, int]]:
    return {graph.file: graph.operators for graph in inspect(directory).graphs}


def _most_frequent(counts: Mapping[str, int]) -> list[tuple[str, int, float]]:
    """Return operators, their numbers, and the lengths of their bars in percent; the rest is one entry."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    shown, others = ordered[:_OPERATORS], ordered[_OPERATORS:]
    if others:
        shown.append((f"{len(others)} others", sum(count for _, count in others)))
    largest = max((count for _, count in shown), default=1)
    return [(name, count, 100 * count / largest) for name, count in shown]


def _read_measurements(path: Path, manifest: Manifest) -> dict[str, Measurements]:
    values: dict[str, Any] = read_json_object(path, purpose="what onnxport bench --json printed")
    try:
        if "load_seconds" in values:
            return {manifest.dtypes[0]: typed(values, Measurements, "")}
        found = typed(values, dict[str, Measurements], "")
    except ValueError as error:
        raise CorruptCheckpointError(f"{path}: {error}; pass what onnxport bench --json printed") from error
    unknown = sorted(found.keys() - set(manifest.dtypes))
    if unknown:
        raise OptionError(
            f"{path} has measurements of {', '.join(unknown)}, and the directory has {', '.join(manifest.dtypes)}: "
            "run onnxport bench --json for this directory"
        )
    return found


def _brief(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"
