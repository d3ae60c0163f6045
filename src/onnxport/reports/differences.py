"""Arrange a validation's differences as points on a logarithmic axis, relative to the tolerance."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass

from onnxport.validation.report import Case, OutputDifference, ValidationReport

_LOWEST, _HIGHEST = -6, 1
"""Powers of ten at the ends of the axis; smaller differences are drawn at its beginning."""
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
TICKS = tuple(
    (100 * (power - _LOWEST) / (_HIGHEST - _LOWEST), "10" + str(power).translate(_SUPERSCRIPTS))
    for power in range(_LOWEST, 0, 2)
)
"""Places on the axis in percent, and their labels."""
TOLERANCE = 100 * -_LOWEST / (_HIGHEST - _LOWEST)
"""Place of the tolerance on the axis, in percent."""


@dataclass(frozen=True)
class Point:
    """Hold the difference of an output in a case, relative to the tolerance.

    Attributes:
        place: on the axis, in percent of its length.
        title: the case and its numbers.
        passed: whether the output agreed.
    """

    place: float
    title: str
    passed: bool


@dataclass(frozen=True)
class Row:
    """Hold the points of an output, or of all outputs of a cache.

    Attributes:
        name: of the output.
        count: number of outputs with that name but for their index.
        points: one for each case, the largest difference of these outputs.
    """

    name: str
    count: int
    points: tuple[Point, ...]


@dataclass(frozen=True)
class DifferenceTable:
    """Hold the comparisons of a graph.

    Attributes:
        component: name of the graph.
        rows: outputs whose differences can be drawn.
        cases: all cases.
    """

    component: str
    rows: tuple[Row, ...]
    cases: tuple[Case, ...]


def difference_tables(report: ValidationReport) -> list[DifferenceTable]:
    """Return the comparisons of each graph.

    Args:
        report: the validation.
    """
    cases: dict[str, list[Case]] = defaultdict(list)
    for case in report.cases:
        cases[case.component].append(case)
    return [DifferenceTable(name, _rows(found), tuple(found)) for name, found in cases.items()]


def _rows(cases: list[Case]) -> tuple[Row, ...]:
    names: dict[str, set[str]] = defaultdict(set)
    points: dict[str, list[Point]] = defaultdict(list)
    for case in cases:
        largest: dict[str, tuple[float, OutputDifference]] = {}
        for output in case.outputs:
            name = re.sub(r"\.\d+\b", ".*", output.name)
            names[name].add(output.name)
            ratio = _ratio(output)
            if ratio is not None and ratio >= largest.get(name, (-1.0, output))[0]:
                largest[name] = ratio, output
        for name, (ratio, output) in largest.items():
            points[name].append(_point(case, output, ratio))
    return tuple(Row(name, len(names[name]), tuple(found)) for name, found in points.items())


def _ratio(output: OutputDifference) -> float | None:
    """Return a difference relative to the largest that is allowed; None if either isn't known."""
    if output.max_abs is None or not output.allowed:
        return None
    return output.max_abs / output.allowed


def _point(case: Case, output: OutputDifference, ratio: float) -> Point:
    power = math.log10(ratio) if ratio > 0 else _LOWEST
    place = 100 * (min(max(power, _LOWEST), _HIGHEST) - _LOWEST) / (_HIGHEST - _LOWEST)
    sizes = ", ".join(f"{symbol} {size}" for symbol, size in case.sizes.items())
    numbers = f"{output.max_abs:.3g} of {output.allowed:.3g}"
    return Point(place, f"{case.name} ({sizes}), {output.name}: {numbers}", output.passed)
