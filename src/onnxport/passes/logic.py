"""Choose between truth values by logic: ONNX Runtime 1.32 has no `Where` of booleans on the CPU.

    Where(condition, a, b)   →   Or(And(condition, a), And(Not(condition), b))     where a and b are booleans

WavTokenizer chooses between masks of audio that is padded on the left and on the right.
"""

from __future__ import annotations

import onnx_ir as ir


class ChooseByLogicPass(ir.passes.InPlacePass):
    """Replace each `Where` of booleans, also in functions."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Change the nodes in place."""
        nodes = (*model.graph.all_nodes(), *(node for one in model.functions.values() for node in one.all_nodes()))
        found = [node for node in nodes if _chooses_booleans(node)]
        for node in found:
            _replace(node)
        return ir.passes.PassResult(model, modified=bool(found))


def _chooses_booleans(node: ir.Node) -> bool:
    return node.op_type == "Where" and node.outputs[0].dtype == ir.DataType.BOOL


def _replace(node: ir.Node) -> None:
    condition, chosen, other = node.inputs
    negated = ir.node("Not", [condition])
    first = ir.node("And", [condition, chosen])
    second = ir.node("And", [negated.outputs[0], other])
    result = ir.node("Or", [first.outputs[0], second.outputs[0]])
    nodes = [negated, first, second, result]
    for new in nodes:
        new.metadata_props.update(node.metadata_props)
        new.outputs[0].dtype = ir.DataType.BOOL
    result.outputs[0].shape = node.outputs[0].shape
    assert node.graph is not None
    ir.convenience.replace_nodes_and_values(node.graph, node, [node], nodes, node.outputs, result.outputs)
