"""Stand for a parameter in a graph: a name, a dtype and a shape, never a value.

Graphs are traced, cleaned and stamped with these; `bound_graphs.bind_graph` puts tensors of the checkpoint in their
place. What reads one by mistake (a pass that folds constants, say) gets an error, not gigabytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

import onnx_ir as ir


class ParameterTensor(ir.LazyTensor):
    """A parameter without value: reading it raises `TypeError`.

    Args:
        name: the parameter's full name, such as `model.layers.3.mlp.up_proj.weight`.
        dtype: type of its elements.
        shape: its sizes.
        axes: the axes of the checkpoint's parameter in the order in which they are the tensor's; None for its own.
    """

    def __init__(
        self, name: str, dtype: ir.DataType, shape: Iterable[int], axes: tuple[int, ...] | None = None
    ) -> None:
        super().__init__(self._refuse, dtype, frozen_shape(shape), name=name)
        self.axes = axes

    def transposed(self) -> ParameterTensor:
        """Return the same parameter with its axes, two or more, in reverse order."""
        rank = len(self.shape)
        axes = self.axes or tuple(range(rank))
        return ParameterTensor(str(self.name), self.dtype, tuple(self.shape.numpy())[::-1], axes[::-1])

    def _refuse(self) -> NoReturn:
        raise TypeError(
            f"parameter {self.name!r} ({self._printable_type_shape()}) has no value yet: the graph isn't bound to a "
            "checkpoint. What works on unbound graphs must leave parameters alone; bind_graph gives them values"
        )


def frozen_shape(sizes: Iterable[int]) -> ir.Shape:
    """Return a shape that can't be changed."""
    shape = ir.Shape(tuple(sizes))
    shape.freeze()
    return shape
