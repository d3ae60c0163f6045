"""Reports as tables that read well without colour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxport._export import ExportResult
    from onnxport.bundles.inspection import GraphInspection
    from onnxport.validation.report import ValidationReport


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table to standard output."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    Console(soft_wrap=False).print(table)


def print_line(text: str) -> None:
    """Print a line to standard output."""
    print(text)


def bytes_text(count: int | None) -> str:
    """Write a number of bytes with a decimal unit."""
    if count is None:
        return "?"
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def axes_text(axes: Iterable[Any]) -> str:
    """Write a shape."""
    return "[" + ", ".join(str(axis) for axis in axes) + "]"


def print_validation(report: ValidationReport) -> None:
    """Print each output's largest differences over all cases, and what failed."""
    if not report.cases:
        print_line(f"validation: {report.status}{' (' + report.note + ')' if report.note else ''}")
        return
    worst: dict[tuple[str, str], list[float]] = {}
    for case in report.cases:
        for output in case.outputs:
            entry = worst.setdefault((case.component, output.name), [0.0, 0.0])
            entry[0] = max(entry[0], output.max_abs if output.max_abs is not None else float("inf"))
            entry[1] = max(entry[1], output.max_rel if output.max_rel is not None else float("inf"))
    rows = [(component, name, f"{a:.2e}", f"{r:.2e}") for (component, name), (a, r) in worst.items()]
    print_table(
        f"validation: {report.status}, {len(report.cases)} cases ({', '.join(c.name for c in report.cases)}), "
        f"atol {report.atol:g}, rtol {report.rtol:g}",
        ("component", "output", "largest absolute difference", "largest relative difference"),
        _shortened(rows),
    )
    for case in report.cases:
        if case.note:
            print_line(f"not proved, {case.name}: {case.note}")
    for failure in report.failures:
        print_line(f"failed: {failure}")


def _shortened(rows: list[tuple[str, str, str, str]]) -> list[tuple[str, str, str, str]]:
    """Leave out the middle of a long cache: its first and last tensors tell enough."""
    if len(rows) <= 12:
        return rows
    return [*rows[:7], ("…", f"{len(rows) - 10} more", "", ""), *rows[-3:]]


def print_export(result: ExportResult) -> None:
    """Print what an export did, or would do."""
    from onnxport.validation.report import ValidationReport

    manifest = result.manifest
    where = f"written to {result.directory}" if result.directory else "nothing written (dry run)"
    print_line(f"{manifest.source['architecture']} for {manifest.task}: {where}")
    for component in manifest.components:
        for fixed in component.fixed_axes:
            print_line(f"fixed by the model: {component.name}, {fixed}")
    print_table("files", ("file", "size"), ((file.name, bytes_text(file.bytes)) for file in result.plan))
    print_validation(ValidationReport.from_dict(manifest.validation))


def print_graph(graph: GraphInspection) -> None:
    """Print what one graph holds."""
    print_line(
        f"{graph.file}: opset {graph.opset}, {graph.nodes} nodes, {graph.parameters:,} parameters, "
        f"{bytes_text(graph.bytes)}"
    )
    rows = [("input", t.name, t.dtype, axes_text(t.axes)) for t in graph.inputs]
    rows += [("output", t.name, t.dtype, axes_text(t.axes)) for t in graph.outputs]
    print_table("", ("", "name", "dtype", "axes"), rows)
    operators = ", ".join(f"{name} {count}" for name, count in graph.operators.items())
    print_line(f"operators: {operators}")
