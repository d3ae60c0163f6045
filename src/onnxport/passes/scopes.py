"""Say which modules a node was traced in: the engine writes it into the node's metadata."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

SCOPES = "pkg.torch.onnx.name_scopes"
"""Metadata of the engine: the modules that a node was traced in, outermost first, then the node's own name."""


def scopes_of(node: ir.Node) -> list[str]:
    """Return the names of the modules that a node was traced in, outermost first; empty where the engine didn't say."""
    text = node.metadata_props.get(SCOPES)
    return [name for name in ast.literal_eval(text)[:-1] if name] if text else []
