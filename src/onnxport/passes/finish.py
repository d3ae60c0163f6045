"""Make a stamped graph ready to be written: the last passes, in order."""

from __future__ import annotations

import onnx_ir as ir

from onnxport.passes.linear import LinearPass
from onnxport.passes.naming import NameByModulePass


def finish(model: ir.Model, *, keep_layout: bool = False) -> None:
    """Run the last passes in place.

    Args:
        model: a clean graph at full depth, whose parameters have no values yet.
        keep_layout: use every parameter in the layout that the checkpoint has it in.
    """
    LinearPass(keep_layout=keep_layout)(model)
    NameByModulePass()(model)  # last: it drops the metadata that says where nodes come from
