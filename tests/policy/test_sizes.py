"""Modules and functions stay small: the largest one, not the average, is what a reader suffers from."""

from __future__ import annotations

import ast

from tests.policy.source import FILES, functions, label

MODULE_LINES = 600
FUNCTION_LINES = 45
"""Lines of a function's body without its docstring."""
PARAMETERS = 6
CONTRACT = ("configs/", "architectures/", "onnx/convert.py", "runtime/models.py")
"""Modules whose signatures are those of `transformers.onnx`, or of its models' `forward`, however long."""


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return [argument.arg for argument in arguments if argument.arg not in ("self", "cls")]


def test_modules_are_small() -> None:
    lines = {label(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {name: count for name, count in lines.items() if count > MODULE_LINES}


def test_functions_are_short() -> None:
    assert not [
        f"{label(path)}: {function.name} has {body_lines(function)} lines"
        for path in FILES
        for function in functions(path)
        if body_lines(function) > FUNCTION_LINES
    ]


def test_functions_take_few_parameters() -> None:
    assert not [
        f"{label(path)}: {function.name} takes {len(parameters(function))}"
        for path in FILES
        if not label(path).startswith(CONTRACT)
        for function in functions(path)
        if len(parameters(function)) > PARAMETERS
    ]
