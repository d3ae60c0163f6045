"""Represent a parameter in a graph by name, dtype and shape, without data.

Graphs are traced, cleaned and stamped with these; `bound_graphs.bind_graph` replaces them with tensors of the
checkpoint. Code that reads one by mistake, such as constant folding, raises instead of reading gigabytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

import onnx_ir as ir


class ParameterTensor(ir.LazyTensor):
    """A parameter without data: reading it raises `TypeError`.

    Args:
        name: the parameter's full name, such as `model.layers.3.mlp.up_proj.weight`.
        dtype: data type of the elements.
        shape: the shape, after `axes` is applied.
        axes: permutation of the axes of the model's parameter, as in `numpy.transpose`; None for no permutation.
    """

    def __init__(
        self, name: str, dtype: ir.DataType, shape: Iterable[int], axes: tuple[int, ...] | None = None
    ) -> None:
        super().__init__(self._raise_unbound, dtype, frozen_shape(shape), name=name)
        self.axes = axes

    def transposed(self) -> ParameterTensor:
        """Return the same parameter with its axes in reverse order."""
        rank = len(self.shape)
        axes = self.axes or tuple(range(rank))
        return ParameterTensor(str(self.name), self.dtype, tuple(self.shape.numpy())[::-1], axes[::-1])

    def _raise_unbound(self) -> NoReturn:
        raise TypeError(
            f"parameter {self.name!r} ({self._printable_type_shape()}) has no data: the graph isn't bound to a "
            "checkpoint. Passes over unbound graphs must not read parameters; bind_graph assigns their data"
        )


def frozen_shape(sizes: Iterable[int]) -> ir.Shape:
    """Return an immutable shape."""
    shape = ir.Shape(tuple(sizes))
    shape.freeze()
    return shape
