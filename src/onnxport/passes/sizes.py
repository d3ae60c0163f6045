"""Read the size of an axis from the first graph input that has it.

    Shape(past_key_values.9.key)[0:1]   →   Shape(input_ids)[0:1]      where both axes are `batch_size`

The engine picks one of the inputs with that symbol, depending on the number of layers. After this pass the graph no
longer depends on that, and equal sizes are computed once.
"""

from __future__ import annotations

import onnx_ir as ir


class ReadSizesFromFirstInputPass(ir.passes.InPlacePass):
    """Redirect each `Shape` of a single axis of a graph input to the first input with that symbol."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change the sources of `Shape` nodes in place."""
        first: dict[str, tuple[ir.Value, int]] = {}
        for value in model.graph.inputs:
            for axis, dim in enumerate(value.shape or ()):
                if isinstance(dim, ir.SymbolicDim) and dim.value is not None:
                    first.setdefault(str(dim.value), (value, axis))
        changed = [_redirect(node, first) for node in model.graph if node.op_type == "Shape" and node.domain == ""]
        return ir.passes.PassResult(model, modified=any(changed))


def _redirect(node: ir.Node, first: dict[str, tuple[ir.Value, int]]) -> bool:
    source = node.inputs[0]
    if source is None or source.shape is None or not source.is_graph_input():
        return False
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(source.shape))
    if end - start != 1 or start < 0:
        return False
    dim = source.shape[start]
    value, axis = first.get(str(getattr(dim, "value", None)), (source, start))
    if value is source and axis == start:
        return False
    node.replace_input_with(0, value)
    node.attributes["start"] = ir.AttrInt64("start", axis)
    node.attributes["end"] = ir.AttrInt64("end", axis + 1)
    return True
