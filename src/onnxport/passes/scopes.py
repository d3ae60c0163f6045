"""Read the modules in which a node was traced from the engine's metadata."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

SCOPES = "pkg.torch.onnx.name_scopes"
"""Metadata key of the engine: a list of the modules of a node, outermost first, and the node's name."""


def scopes_of(node: ir.Node) -> list[str]:
    """Return the names of the modules in which a node was traced, outermost first; empty without metadata."""
    text = node.metadata_props.get(SCOPES)
    return [name for name in ast.literal_eval(text)[:-1] if name] if text else []
