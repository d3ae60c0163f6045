"""Write a graph with its weights: inside the file, or beside it where protobuf can't hold them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from onnxport.options import ExternalData

if TYPE_CHECKING:
    import onnx_ir as ir

PROTOBUF_LIMIT = 2 * 1024**3
"""Bytes that a protobuf message can't reach (its lengths are signed 32-bit numbers)."""
GRAPH_ALLOWANCE = 64 * 1024**2
"""Bytes kept for the graph itself when weights are weighed against the limit."""
SMALL_TENSOR = 1024
"""Bytes up to which a tensor stays in the graph: ONNX Runtime's shape inference reads axes and shapes only there."""
EXTERNAL_SUFFIX = "_data"
"""Appended to the graph's file name: the name that clients of the optimum layout look for."""


def weights_bytes(model: ir.Model) -> int:
    """Return the bytes of all initializers of a graph."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


def external_file(model: ir.Model, file: Path, external_data: ExternalData) -> Path | None:
    """Return the file that the weights go into, None where they stay inside the graph."""
    if external_data == "always" or weights_bytes(model) + GRAPH_ALLOWANCE >= PROTOBUF_LIMIT:
        return file.with_name(file.name + EXTERNAL_SUFFIX)
    return None


def write_graph(model: ir.Model, file: Path, external_data: ExternalData = "auto") -> list[Path]:
    """Write a graph.

    Args:
        model: graph whose initializers hold tensors.
        file: file to write; its directory exists.
        external_data: `always` writes weights beside the graph, `auto` only near the protobuf limit.

    Returns:
        The files written, the graph first.
    """
    import onnx_ir as ir

    data = external_file(model, file, external_data)
    if data is None:
        ir.save(model, str(file))
        return [file]
    ir.save(model, str(file), external_data=data.name, size_threshold_bytes=SMALL_TENSOR)
    return [file, data]
