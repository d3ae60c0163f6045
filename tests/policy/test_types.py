"""Parameters have specific types, and handlers catch specific exceptions: counts that may only decrease."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.policy.source import FILES, functions, label

ANY_SHARE = 0.09
"""Maximum share of parameters that are annotated with `Any`."""
HANDLERS_OF_ANY_EXCEPTION = 4
"""Number of handlers of `Exception` or `BaseException`, each with its reason; external code runs in `translating`."""
TYPED_PACKAGES = ("checkpoint/", "loading/", "binding/", "weights/", "writing/", "passes/", "stamping/")
"""Packages without mixed tuples, and with at most 1 % of parameters annotated with `Any`."""


def parameters(path: Path) -> Iterator[tuple[str, ast.expr | None]]:
    """Yield `function(parameter)` and annotation of every parameter except self, cls, *args and **kwargs."""
    for function in functions(path):
        arguments = function.args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            if argument.arg not in ("self", "cls"):
                yield f"{label(path)}: {function.name}({argument.arg})", argument.annotation


def members(annotation: ast.expr | None) -> Iterator[ast.expr]:
    """Yield an annotation, or the members of a union."""
    if isinstance(annotation, ast.BinOp):
        yield from members(annotation.left)
        yield from members(annotation.right)
    elif annotation is not None:
        yield annotation


def is_any(annotation: ast.expr | None) -> bool:
    return any(isinstance(member, ast.Name) and member.id == "Any" for member in members(annotation))


def is_mixed_tuple(annotation: ast.expr | None) -> bool:
    for member in members(annotation):
        if isinstance(member, ast.Subscript) and ast.unparse(member.value) == "tuple":
            inner = member.slice.elts if isinstance(member.slice, ast.Tuple) else [member.slice]
            if len({ast.unparse(item) for item in inner} - {"..."}) > 1:
                return True
    return False


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Any", True), ("Any | None", True), ("dict[str, Any]", False), ("object", False)],
)
def test_what_counts_as_any(text: str, expected: bool) -> None:
    assert is_any(ast.parse(text, mode="eval").body) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tuple[int, str]", True),
        ("tuple[int, str] | None", True),
        ("tuple[int, int]", False),
        ("tuple[int, ...]", False),
        ("list[tuple[int, str]]", False),
    ],
)
def test_what_counts_as_a_mixed_tuple(text: str, expected: bool) -> None:
    assert is_mixed_tuple(ast.parse(text, mode="eval").body) == expected


def test_few_parameters_are_any() -> None:
    everything = [is_any(annotation) for path in FILES for _, annotation in parameters(path)]
    share = sum(everything) / len(everything)
    print(f"{sum(everything)} of {len(everything)} parameters are Any: {share:.1%}")
    assert share <= ANY_SHARE


def test_no_parameters_are_mixed_tuples() -> None:
    assert not [name for path in FILES for name, annotation in parameters(path) if is_mixed_tuple(annotation)]


def test_typed_packages_stay_typed() -> None:
    paths = [path for path in FILES if label(path).startswith(TYPED_PACKAGES)]
    named = [item for path in paths for item in parameters(path)]
    assert not [name for name, annotation in named if is_mixed_tuple(annotation)]
    untyped = [name for name, annotation in named if is_any(annotation)]
    assert len(untyped) <= len(named) // 100, "\n".join(untyped)


def test_few_handlers_catch_any_exception() -> None:
    handlers = [
        f"{label(path)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ExceptHandler)
        if node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
    ]
    print(f"{len(handlers)} handlers of any exception")
    assert len(handlers) <= HANDLERS_OF_ANY_EXCEPTION, "\n".join(handlers)
