"""Print reports to standard output, as tables that are readable without colour."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxport._process import writing_output
from onnxport.errors import printable
from onnxport.reports.formats import axes_text, bytes_text

if TYPE_CHECKING:
    from onnxport._export import ExportResult
    from onnxport.bundles.inspection import GraphInspection, Inspection
    from onnxport.description.description import Description, TensorSpec
    from onnxport.validation.report import OutputDifference, ValidationReport

WIDTH_WITHOUT_TERMINAL = 160
_ROWS = 12
"""Maximum number of outputs shown; of a longer list (a KV cache), the first and the last."""


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title) if title else None, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    has_width = sys.stdout.isatty() or "COLUMNS" in os.environ
    with writing_output():
        Console(width=None if has_width else WIDTH_WITHOUT_TERMINAL, highlight=False).print(table)


def print_line(text: str) -> None:
    """Print a line."""
    with writing_output():
        print(text)


def print_json(values: object) -> None:
    """Print values as JSON."""
    print_line(json.dumps(values, indent=2))


@dataclass
class _LargestDifferences:
    """Hold the largest differences of one output over all cases."""

    component: str
    name: str
    max_abs: float | None = None
    max_rel: float | None = None
    passed: bool = True

    def add(self, output: OutputDifference) -> None:
        self.max_abs = _larger(self.max_abs, output.max_abs)
        self.max_rel = _larger(self.max_rel, output.max_rel)
        self.passed &= output.passed

    def row(self) -> tuple[str, ...]:
        status = "passed" if self.passed else "FAILED"
        return self.component, self.name, _difference(self.max_abs), _difference(self.max_rel), status


def _larger(a: float | None, b: float | None) -> float | None:
    values = [value for value in (a, b) if value is not None]
    return max(values) if values else None


def _difference(value: float | None) -> str:
    return "?" if value is None else f"{value:.2e}"


def print_validation(report: ValidationReport) -> None:
    """Print each output's largest differences over all cases, and the failures."""
    if not report.cases:
        print_line(f"validation: {report.status}{f' ({report.note})' if report.note else ''}")
        return
    largest: dict[tuple[str, str], _LargestDifferences] = {}
    for case in report.cases:
        for output in case.outputs:
            largest.setdefault((case.component, output.name), _LargestDifferences(case.component, output.name)).add(
                output
            )
    names = ", ".join(dict.fromkeys(case.name for case in report.cases))
    count = "1 case" if len(report.cases) == 1 else f"{len(report.cases)} cases"
    print_line(f"validation: {report.status}, {count} ({names}), atol {report.atol:g}, rtol {report.rtol:g}")
    columns = ("component", "output", "largest absolute difference", "largest relative difference", "status")
    print_table("", columns, [item.row() for item in _shortened(list(largest.values()))])
    if report.note:
        print_line(f"note: {report.note}")
    for case in report.cases:
        if case.note:
            print_line(f"not validated, {case.name}: {case.note}")
    for failure in report.failures:
        print_line(f"failed: {failure}")
    for loss in report.losses:
        measures = ", ".join(f"{name} {value:.4g}" for name, value in loss.measures.items())
        print_line(f"loss of {loss.precision}: {measures} ({loss.sample})")


def _shortened(outputs: list[_LargestDifferences]) -> list[_LargestDifferences]:
    """Merge passed outputs in the middle of a long list into one row with their largest differences."""
    if len(outputs) <= _ROWS:
        return outputs
    head, middle, tail = outputs[:7], outputs[7:-3], outputs[-3:]
    failed = [item for item in middle if not item.passed]
    joined = [item for item in middle if item.passed]
    row = _LargestDifferences("…", f"{len(joined)} more")
    for item in joined:
        row.max_abs, row.max_rel = _larger(row.max_abs, item.max_abs), _larger(row.max_rel, item.max_rel)
    return [*head, *failed, *([row] if joined else []), *tail]


def print_export(result: ExportResult) -> None:
    """Print the files, the fixed and limited axes, the missing inputs, and the validation of an export or a dry run."""
    from onnxport.description.forward import NOT_DESCRIBED
    from onnxport.validation.report import ValidationReport

    manifest = result.manifest
    outcome = f"written to {result.directory}" if result.directory else "nothing written (dry run)"
    print_line(f"{manifest.architecture} for {manifest.task}: {outcome}")
    for component in manifest.components:
        for fixed in component.fixed_axes:
            print_line(f"fixed by the model: {component.name}, {fixed}")
        for label, size in component.max_sizes.items():
            print_line(f"limit: {component.name}, {label} of at most {size}")
    not_described = [name for name, reason in manifest.left_out.items() if reason == NOT_DESCRIBED]
    if not_described:
        print_line(f"left out, {NOT_DESCRIBED}: {', '.join(not_described)}")
    print_table("", ("file", "size"), ((file.name, bytes_text(file.bytes)) for file in result.plan))
    print_validation(ValidationReport.from_dict(manifest.validation))


def print_inspection(inspection: Inspection) -> None:
    """Print the graphs of a directory and, if it has a manifest, their model and task."""
    if inspection.task:
        model, validation = inspection.model or "model", inspection.validation or "unknown"
        print_line(printable(f"{model} for {inspection.task}, validation {validation}"))
    for graph in inspection.graphs:
        _print_graph(graph)


def _print_graph(graph: GraphInspection) -> None:
    name = printable(f"{graph.component} ({graph.file})" if graph.component else graph.file)
    print_line(
        f"{name}: opset {graph.opset}, {graph.nodes:,} nodes, {graph.parameters:,} parameters, "
        f"{bytes_text(graph.bytes)}"
        + (printable(f" with {', '.join(graph.external_data)}") if graph.external_data else "")
    )
    rows = [("input", t.name, t.dtype, axes_text(t.axes)) for t in graph.inputs]
    rows += [("output", t.name, t.dtype, axes_text(t.axes)) for t in graph.outputs]
    print_table("", ("", "name", "dtype", "axes"), rows)
    operators = ", ".join(f"{name} {count}" for name, count in graph.operators.items())
    print_line(printable(f"operators: {operators}"))


def print_description(description: Description) -> None:
    """Print the graphs of a description; tensors that differ only in the layer index are one row."""
    architecture, model_type = description.architecture, description.model_type
    print_line(f"{architecture} ({model_type}) for {description.task}, {description.dtype}")
    for graph in description.graphs:
        print_line(
            f"{graph.name}: {graph.source} description ({graph.described_by}), opset {graph.opset}, "
            f"atol {graph.atol:g}, rtol {graph.rtol:g}"
        )
        rows = [("input", *row) for row in _tensor_rows(graph.inputs)]
        rows += [("output", *row) for row in _tensor_rows(graph.outputs)]
        print_table("", ("", "name", "dtype", "axes", "example"), rows)
        for fixed in graph.fixed_axes:
            print_line(f"fixed by the model: {graph.name}, {fixed}")
    for reason, names in _by_reason(description.left_out).items():
        print_line(f"left out, {reason}: {', '.join(names)}")
    for note in description.notes:
        print_line(f"note: {note}")


def _by_reason(left_out: Mapping[str, str]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        names.setdefault(reason, []).append(name)
    return names


def _tensor_rows(tensors: Iterable[TensorSpec]) -> list[tuple[str, ...]]:
    groups: dict[tuple[str, ...], list[str]] = {}
    for tensor in tensors:
        name = re.sub(r"\.\d+\.", ".{}.", tensor.name, count=1)
        index = tensor.name.removeprefix(name.partition("{}")[0]).partition(".")[0] if "{}" in name else ""
        groups.setdefault((name, tensor.dtype, axes_text(tensor.axes), axes_text(tensor.example)), []).append(index)
    return [(name.replace("{}", _index_range(indices)), *rest) for (name, *rest), indices in groups.items()]


def _index_range(indices: list[str]) -> str:
    """Format layer indices: `0…11` if they are consecutive."""
    first = int(indices[0] or 0)
    consecutive = indices == [str(index) for index in range(first, first + len(indices))]
    return f"{indices[0]}…{indices[-1]}" if consecutive and len(indices) > 1 else ",".join(indices)
