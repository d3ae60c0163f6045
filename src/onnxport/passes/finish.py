"""Run the last passes over a stamped graph, in order."""

from __future__ import annotations

import onnx_ir as ir

from onnxport.passes.linear import LinearPass
from onnxport.passes.naming import NameByModulePass
from onnxport.passes.transposed_products import TransposedProductPass


def finish(model: ir.Model, *, keep_layout: bool = False) -> None:
    """Run the last passes in place.

    Args:
        model: a cleaned-up graph at full depth, whose parameters have no data.
        keep_layout: use every parameter in the checkpoint's layout.
    """
    LinearPass(keep_layout=keep_layout)(model)
    TransposedProductPass()(model)
    NameByModulePass()(model)  # last: it removes the metadata with the modules of nodes
