"""Find the parameters that a forward doesn't read: some are in its signature only because a processor returns them."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any


def is_unread(forward: Callable[..., Any], name: str, owner: object) -> bool:
    """Return whether a forward reads a parameter nowhere, neither itself nor in a submodule to which it passes it.

    Args:
        forward: the function of a model's class.
        name: the parameter.
        owner: the model, whose submodules and methods get the parameter by the same name.
    """
    loads = list(_loads(forward, name))
    if not loads:
        return bool(_parsed(forward))
    return all(call is not None and _is_unread_in(call, name, owner) for call in loads)


def _is_unread_in(call: str, name: str, owner: object) -> bool:
    """Return whether a method or submodule of a model doesn't read a parameter that it gets by name."""
    target: Any = getattr(owner, call, None)
    is_module = hasattr(type(target), "forward")
    function = type(target).forward if is_module else getattr(target, "__func__", None)
    if function is None or name not in inspect.signature(function).parameters:
        return False
    return is_unread(function, name, target if is_module else owner)


def _loads(forward: Callable[..., Any], name: str) -> Iterator[str | None]:
    """Yield where a parameter is read: the member of `self` to which it is passed by its own name, or None."""
    passed, nodes = set[ast.expr](), [node for statement in _parsed(forward) for node in ast.walk(statement)]
    for call in (node for node in nodes if isinstance(node, ast.Call)):
        function = call.func
        is_member = isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name)
        for keyword in call.keywords if is_member and function.value.id == "self" else ():  # type: ignore[attr-defined]
            if keyword.arg == name and isinstance(keyword.value, ast.Name) and keyword.value.id == name:
                passed.add(keyword.value)
                yield function.attr  # type: ignore[attr-defined]
    for node in nodes:
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load) and node not in passed:
            yield None


@cache
def _parsed(forward: Callable[..., Any]) -> tuple[ast.stmt, ...]:
    """Return the statements of a function; none if its source isn't available."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(forward))))
    except (OSError, TypeError, SyntaxError):
        return ()
    function = tree.body[0]
    return tuple(function.body) if isinstance(function, ast.FunctionDef) else ()
