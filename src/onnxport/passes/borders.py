"""Cast inputs and outputs of a graph.

    input_ids (int64) → Gather   →   input_ids (int32) → Cast → Gather

Some runtimes take no int64, and some programs no float16.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir


class CastBordersPass(ir.passes.InPlacePass):
    """Give inputs and outputs other dtypes, and cast between these and the graph's.

    Args:
        dtypes: name of an input or output to its dtype.
    """

    def __init__(self, dtypes: Mapping[str, ir.DataType]) -> None:
        super().__init__()
        self._dtypes = dict(dtypes)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Insert the casts in place."""
        graph = model.graph
        inputs = [value for value in graph.inputs if self._differs(value)]
        outputs = [index for index, value in enumerate(graph.outputs) if self._differs(value)]
        for value in inputs:
            self._cast_input(graph, value)
        for index in outputs:
            self._cast_output(graph, index)
        return ir.passes.PassResult(model, modified=bool(inputs or outputs))

    def _differs(self, value: ir.Value) -> bool:
        return self._dtypes.get(str(value.name), value.dtype) != value.dtype

    def _cast_input(self, graph: ir.Graph, value: ir.Value) -> None:
        name = str(value.name)
        outer = ir.Value(name=name, shape=value.shape, type=ir.TensorType(self._dtypes[name]))
        assert value.dtype is not None, "it differs from another dtype"
        cast = _cast(outer, value.dtype)
        ir.convenience.replace_all_uses_with(value, cast.outputs[0], replace_graph_outputs=True)
        graph.inputs[list(graph.inputs).index(value)] = outer
        graph.insert_before(graph[0], cast)

    def _cast_output(self, graph: ir.Graph, index: int) -> None:
        value = graph.outputs[index]
        name = str(value.name)
        cast = _cast(value, self._dtypes[name])
        value.name, cast.outputs[0].name = f"{name}_before_cast", name
        graph.append(cast)
        graph.outputs[index] = cast.outputs[0]


def _cast(value: ir.Value, dtype: ir.DataType) -> ir.Node:
    cast = ir.node("Cast", [value], {"to": dtype})
    cast.outputs[0].shape, cast.outputs[0].dtype = value.shape, dtype
    return cast
