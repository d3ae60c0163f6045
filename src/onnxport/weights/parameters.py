"""Represent a parameter in a graph by name, dtype and shape, without data.

Graphs are traced, cleaned and stamped with these; `bound_graphs.bind_graph` replaces them with tensors of the
checkpoint. Code that reads one by mistake, such as constant folding, raises instead of reading gigabytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn

import onnx_ir as ir

from onnxport.weights.building import rebuilt, transpose
from onnxport.weights.expressions import Expression, Shape


@dataclass(frozen=True)
class Parameter(Expression):
    """A parameter of the model, whose tensor isn't known yet.

    Attributes:
        name: its full name, such as `model.layers.3.mlp.up_proj.weight`.
        data_type: data type of the elements.
        sizes: the shape.
    """

    name: str
    data_type: ir.DataType
    sizes: Shape

    @property
    def dtype(self) -> ir.DataType:
        """Data type of the elements."""
        return self.data_type

    @property
    def shape(self) -> Shape:
        """The shape."""
        return self.sizes


class ParameterTensor(ir.LazyTensor):
    """A parameter without data, or a tensor that is computed from parameters: reading it raises `TypeError`.

    Attributes:
        expression: how it is computed from `Parameter`s.

    Args:
        name: name of the tensor; of a parameter, its full name.
        dtype: data type of the elements.
        shape: the shape.
        expression: how it is computed from parameters; None for the parameter itself.
    """

    def __init__(
        self, name: str, dtype: ir.DataType, shape: Iterable[int], expression: Expression | None = None
    ) -> None:
        sizes = tuple(shape)
        super().__init__(self._raise_unbound, dtype, frozen_shape(sizes), name=name)
        self.expression = expression if expression is not None else Parameter(name, dtype, sizes)

    @classmethod
    def computed(cls, name: str, expression: Expression) -> ParameterTensor:
        """Return a tensor that is computed from parameters."""
        return cls(name, expression.dtype, expression.shape, expression)

    def transposed(self) -> ParameterTensor:
        """Return the same parameter with its axes in reverse order."""
        axes = tuple(reversed(range(len(self.shape))))
        return ParameterTensor.computed(str(self.name), transpose(self.expression, axes))

    def _raise_unbound(self) -> NoReturn:
        raise TypeError(
            f"parameter {self.name!r} ({self._printable_type_shape()}) has no data: the graph isn't bound to a "
            "checkpoint. Passes over unbound graphs must not read parameters; bind_graph assigns their data"
        )


def substituted(expression: Expression, values: Callable[[Parameter], Expression]) -> Expression:
    """Return an expression with its parameters replaced.

    Args:
        expression: an expression over `Parameter`s.
        values: returns the expression of a parameter.
    """
    if isinstance(expression, Parameter):
        return values(expression)
    return rebuilt(expression, [substituted(child, values) for child in expression.children])


def parameters_of(expression: Expression) -> list[Parameter]:
    """Return the parameters of an expression, in order."""
    if isinstance(expression, Parameter):
        return [expression]
    return [parameter for child in expression.children for parameter in parameters_of(child)]


def frozen_shape(sizes: Iterable[int]) -> ir.Shape:
    """Return an immutable shape."""
    shape = ir.Shape(tuple(sizes))
    shape.freeze()
    return shape
