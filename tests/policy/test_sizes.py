"""Limits for the sizes of modules and functions."""

from __future__ import annotations

import ast

import pytest

from tests.policy.source import FILES, functions, label

MODULE_LINES = 569
FUNCTION_LINES = 45
"""Lines of a function's body without its docstring."""
PARAMETERS = 6
UPSTREAM_SIGNATURES = (
    "configs/",
    "architectures/",
    "onnx/convert.py",
    "runtime/models.py",
    "runtime/encoder_decoders.py",
    "runtime/multimodal.py",
    "runtime/music.py",
)
"""Modules whose signatures are those of `transformers.onnx` or of a model's `forward`."""

PUBLIC_SETTINGS = ("runtime/load.py: load takes 7",)
"""The public function with one keyword for each setting of a session, as ONNX Runtime and Transformers have them."""


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def members(annotation: ast.expr | None) -> int:
    """Count the values of a parameter: a tuple of different types counts as its members."""
    if not isinstance(annotation, ast.Subscript) or not isinstance(annotation.slice, ast.Tuple):
        return 1
    names = [ast.unparse(member) for member in annotation.slice.elts]
    return len(names) if ast.unparse(annotation.value) == "tuple" and len({*names} - {"..."}) > 1 else 1


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return sum(members(argument.annotation) for argument in arguments if argument.arg not in ("self", "cls"))


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
    found = [
        f"{label(path)}: {function.name} takes {parameters(function)}"
        for path in FILES
        if not label(path).startswith(UPSTREAM_SIGNATURES)
        for function in functions(path)
        if parameters(function) > PARAMETERS
    ]
    assert found == list(PUBLIC_SETTINGS)


@pytest.mark.parametrize(
    ("annotation", "count"),
    [("int", 1), ("tuple[int, ...]", 1), ("tuple[int, int]", 1), ("tuple[str, int, Path]", 3), ("dict[str, int]", 1)],
)
def test_a_tuple_of_different_types_counts_as_its_members(annotation: str, count: int) -> None:
    assert members(ast.parse(annotation, mode="eval").body) == count
