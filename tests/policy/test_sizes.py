"""Modules and functions stay small: the largest one, not the average, is what a reader suffers from."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.policy.source import FILES, functions, label

MODULE_LINES = 600
FUNCTION_LINES = 45
"""Lines of a function's body without its docstring."""
PARAMETERS = 6
CONTRACT = ("configs/", "architectures/", "onnx/convert.py", "runtime/models.py")
"""Modules whose signatures are those of `transformers.onnx`, or of its models' `forward`, however long."""


@pytest.mark.parametrize("path", FILES, ids=label)
def test_module_is_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MODULE_LINES


@pytest.mark.parametrize("path", FILES, ids=label)
def test_functions_are_short(path: Path) -> None:
    for function in functions(path):
        body = function.body[1:] if ast.get_docstring(function) else function.body
        lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
        assert lines <= FUNCTION_LINES, function.name


def parameters(annotation: ast.expr | None) -> int:
    """Count what a parameter hands over: a tuple of unlike things is as many as it has members."""
    if not isinstance(annotation, ast.Subscript) or not isinstance(annotation.slice, ast.Tuple):
        return 1
    members = [ast.unparse(member) for member in annotation.slice.elts]
    return len(members) if ast.unparse(annotation.value) == "tuple" and len({*members} - {"..."}) > 1 else 1


@pytest.mark.parametrize("path", FILES, ids=label)
def test_functions_take_few_parameters(path: Path) -> None:
    if label(path).startswith(CONTRACT):
        return
    for function in functions(path):
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        taken = [parameters(argument.annotation) for argument in arguments if argument.arg not in ("self", "cls")]
        assert sum(taken) <= PARAMETERS, function.name


@pytest.mark.parametrize(
    ("annotation", "count"),
    [("int", 1), ("tuple[int, ...]", 1), ("tuple[int, int]", 1), ("tuple[str, int, Path]", 3), ("dict[str, int]", 1)],
)
def test_a_tuple_of_unlike_things_counts_as_its_members(annotation: str, count: int) -> None:
    assert parameters(ast.parse(annotation, mode="eval").body) == count
