"""The report of a validation, which the manifest stores and the CLI prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class OutputDifference:
    """Hold the comparison of one output in one case.

    Attributes:
        name: flat output name.
        dtype: dtype of ONNX Runtime's output.
        shape: shape of ONNX Runtime's output.
        max_abs: largest absolute difference over all elements; None if the values can't be compared.
        max_rel: largest difference relative to the original's element, over elements whose magnitude is above the
            absolute tolerance.
        passed: whether shape, dtype and values agree.
        problem: the difference; empty if it passed.
        allowed: largest absolute difference that passes; None if the values can't be compared.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    max_abs: float | None
    max_rel: float | None
    passed: bool
    problem: str = ""
    allowed: float | None = None


@dataclass(frozen=True)
class Case:
    """Hold the comparison of all outputs at one combination of sizes.

    Attributes:
        component: the graph that was run.
        name: name of the case, such as `batch 1`.
        sizes: symbol to size.
        outputs: the comparison of every output.
        note: why nothing was compared (the original model doesn't support these sizes); empty if it ran.
    """

    component: str
    name: str
    sizes: dict[str, int]
    outputs: tuple[OutputDifference, ...]
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether every output agreed."""
        return all(output.passed for output in self.outputs)


@dataclass(frozen=True)
class Loss:
    """Hold what the graphs of one precision lose against the original, measured and not asserted.

    Attributes:
        precision: name of the precision.
        sample: what it was measured on.
        measures: name of a measure to its value: perplexity, share of the largest logits that stay, cosine.
    """

    precision: str
    sample: str
    measures: dict[str, float]


@dataclass(frozen=True)
class ValidationReport:
    """Hold the results of a validation.

    Attributes:
        status: `passed`; `failed`; `partial` if a part passed, a reduced model or some of the graphs, and the rest
            couldn't be run; or `skipped`.
        level: the requested level.
        atol: absolute tolerance.
        rtol: relative tolerance.
        cases: every case that was run.
        note: what was and wasn't validated if the status is `partial`, why nothing was run if it is `skipped`, and the
            strategy if the weights weren't in memory.
        losses: what quantized graphs lose.
    """

    status: str
    level: str
    atol: float
    rtol: float
    cases: tuple[Case, ...] = ()
    note: str = ""
    losses: tuple[Loss, ...] = ()

    @property
    def failures(self) -> list[str]:
        """One line for every output that failed."""
        return [
            f"{case.component}, {case.name} ({_sizes(case.sizes)}), {output.name}: {output.problem}"
            for case in self.cases
            for output in case.outputs
            if not output.passed
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values for JSON."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ValidationReport:
        """Build a report from the result of `to_dict`."""
        cases = tuple(
            Case(**{**case, "outputs": tuple(_difference(output) for output in case["outputs"])})
            for case in values.get("cases", ())
        )
        losses = tuple(Loss(**loss) for loss in values.get("losses", ()))
        return cls(**{**values, "cases": cases, "losses": losses})


def merged(reports: Sequence[ValidationReport]) -> ValidationReport:
    """Merge the reports of several graphs, with the worst status and the largest tolerances.

    If some graphs were compared and others skipped, the status is `partial`.
    """
    statuses = {report.status for report in reports}
    if "skipped" in statuses and len(statuses) > 1:
        statuses.add("partial")
        statuses.remove("skipped")
    return ValidationReport(
        next(status for status in ("failed", "partial", "skipped", "passed") if status in statuses),
        reports[0].level,
        max(report.atol for report in reports),
        max(report.rtol for report in reports),
        tuple(case for report in reports for case in report.cases),
        "; ".join(dict.fromkeys(report.note for report in reports if report.note)),
        tuple(loss for report in reports for loss in report.losses),
    )


def with_note(report: ValidationReport, note: str) -> ValidationReport:
    """Return the report with a note before its note."""
    return replace(report, note="; ".join(text for text in (note, report.note) if text))


def _difference(values: dict[str, Any]) -> OutputDifference:
    return OutputDifference(**{**values, "shape": tuple(values["shape"])})


def _sizes(sizes: dict[str, int]) -> str:
    return ", ".join(f"{symbol}={size}" for symbol, size in sizes.items())


def of_precision(report: ValidationReport, precision: str) -> ValidationReport:
    """Return the report with a precision beside the names of the graphs and its note; unchanged if it is empty."""
    if not precision:
        return report
    cases = (replace(case, component=f"{case.component} {precision}") for case in report.cases)
    return replace(report, cases=tuple(cases), note=f"{precision}: {report.note}" if report.note else "")
