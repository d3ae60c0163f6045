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


@pytest.mark.parametrize("path", FILES, ids=label)
def test_functions_take_few_parameters(path: Path) -> None:
    if label(path).startswith(CONTRACT):
        return
    for function in functions(path):
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        names = [argument.arg for argument in arguments if argument.arg not in ("self", "cls")]
        assert len(names) <= PARAMETERS, function.name
