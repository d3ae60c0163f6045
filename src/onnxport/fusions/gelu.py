"""Fuse the tanh form of GELU.

    0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))   →   Gelu(x, approximate="tanh")

The models write it in several ways: `0.044715 x³` or `0.044715 x · x · x`, factors inside or outside of the sum. So
both the argument of tanh and the result are compared as polynomials in x and t = tanh(…).
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isclose, pi, sqrt

import onnx_ir as ir

from onnxport.fusions._matching import MICROSOFT, add_node, replace, scalar, sole_user

Polynomial = dict[tuple[int, int], float]
"""Exponents of x and of t to the coefficient of their product."""

_ARGUMENT: Polynomial = {(1, 0): sqrt(2 / pi), (3, 0): sqrt(2 / pi) * 0.044715}
_RESULT: Polynomial = {(1, 0): 0.5, (1, 1): 0.5}
_DEPTH = 6
"""Largest number of nodes between x and the argument, and between t and the result."""


class GeluPass(ir.passes.InPlacePass):
    """Replace the tanh form of GELU with `Gelu`, or with ONNX Runtime's `FastGelu`.

    Args:
        contrib: whether it is `FastGelu`.
    """

    def __init__(self, *, contrib: bool = False) -> None:
        super().__init__()
        self._contrib = contrib

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuse in place."""
        modified = False
        for node in [node for node in model.graph if node.op_type == "Tanh" and node.domain == ""]:
            modified = _fuse(node, contrib=self._contrib) or modified
        return ir.passes.PassResult(model, modified=modified)


def _fuse(tanh: ir.Node, *, contrib: bool) -> bool:
    argument = tanh.inputs[0]
    x = next((x for x in _factors(argument, _DEPTH) if _equal(_polynomial(argument, x, None, _DEPTH), _ARGUMENT)), None)
    user = sole_user(tanh.outputs[0]) if x is not None else None
    for _ in range(_DEPTH):
        if user is None or x is None:
            return False
        result = user.outputs[0]
        if _equal(_polynomial(result, x, tanh.outputs[0], _DEPTH), _RESULT):
            fused = add_node(user, "FastGelu", [x], domain=MICROSOFT) if contrib else _gelu(user, x)
            replace(result, fused.outputs[0])
            return True
        user = sole_user(result)
    return False


def _gelu(before: ir.Node, x: ir.Value) -> ir.Node:
    return add_node(before, "Gelu", [x], {"approximate": "tanh"})


def _factors(value: ir.Value | None, depth: int) -> Iterator[ir.Value]:
    """Yield the values from which a value is computed."""
    node = value.producer() if value is not None else None
    for source in node.inputs if node is not None and depth else ():
        if source is not None and scalar(source) is None:
            yield source
            yield from _factors(source, depth - 1)


def _polynomial(value: ir.Value | None, x: ir.Value, t: ir.Value | None, depth: int) -> Polynomial | None:
    """Return a value as a polynomial in x and t; None if it isn't one."""
    if value is x:
        return {(1, 0): 1.0}
    if value is not None and value is t:
        return {(0, 1): 1.0}
    if (number := scalar(value)) is not None:
        return {(0, 0): number}
    node = value.producer() if value is not None else None
    if node is None or not depth or node.domain != "" or node.op_type not in ("Add", "Mul", "Pow", "Div"):
        return None
    one, other = (_polynomial(source, x, t, depth - 1) for source in node.inputs)
    if one is None or other is None:
        return None
    if node.op_type == "Add":
        return {powers: one.get(powers, 0.0) + other.get(powers, 0.0) for powers in {**one, **other}}
    if node.op_type == "Mul":
        return _product(one, other)
    number = other.get((0, 0), 0.0)
    if len(other) != 1 or number == 0:
        return None
    if node.op_type == "Div":
        return _product(one, {(0, 0): 1 / number})
    if number not in (2, 3):
        return None
    return _product(one, one) if number == 2 else _product(one, _product(one, one))


def _product(one: Polynomial, other: Polynomial) -> Polynomial:
    result: Polynomial = {}
    for (a, b), factor in one.items():
        for (c, d), other_factor in other.items():
            result[a + c, b + d] = result.get((a + c, b + d), 0.0) + factor * other_factor
    return result


def _equal(found: Polynomial | None, expected: Polynomial) -> bool:
    """Return whether polynomials have the same coefficients, up to float32's and float16's precision."""
    return (
        found is not None
        and {powers for powers, factor in found.items() if factor} == expected.keys()
        and all(isclose(found[powers], factor, rel_tol=1e-3) for powers, factor in expected.items())
    )
