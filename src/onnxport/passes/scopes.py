"""Read the modules in which a node was traced from the engine's metadata, and replace it by nodes with the same."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

SCOPES = "pkg.torch.onnx.name_scopes"
"""Metadata key of the engine: a list of the modules of a node, outermost first, and the node's name."""


def scopes_of(node: ir.Node) -> list[str]:
    """Return the names of the modules in which a node was traced, outermost first; empty without metadata."""
    text = node.metadata_props.get(SCOPES)
    return [name for name in ast.literal_eval(text)[:-1] if name] if text else []


def node_like(
    operator: str,
    inputs: Sequence[ir.Value | None],
    like: ir.Node,
    attributes: Mapping[str, int] | None = None,
    domain: str = "",
) -> ir.Node:
    """Return a new node with one output, in the modules of another node.

    Args:
        operator: its operator.
        inputs: its inputs.
        like: a node of the same module.
        attributes: its attributes.
        domain: the operator's domain.
    """
    import onnx_ir as ir

    scope = like.metadata_props.get(SCOPES)
    metadata = {SCOPES: scope} if scope else None
    return ir.node(operator, inputs, attributes or {}, domain=domain, metadata_props=metadata)


def replace_node(old: ir.Node, nodes: Sequence[ir.Node]) -> None:
    """Replace a node with one output by others, the last of which computes that output.

    Args:
        old: a node of a graph, or of the body of a loop.
        nodes: new nodes, which are inserted after it, in order.
    """
    import onnx_ir as ir

    before, after, graph = old.outputs[0], nodes[-1].outputs[0], old.graph
    assert graph is not None, "the node is in a graph"
    after.shape, after.type = before.shape, before.type
    graph.insert_after(old, nodes)
    if before.is_graph_output():
        after.name = before.name
    ir.convenience.replace_all_uses_with(before, after, replace_graph_outputs=True)
    graph.remove(old, safe=True)
