"""Load quantized graphs that compute with floating-point activations, to compare them with the original.

With 8-bit activations, a rounding error of float32 decides ties otherwise, and an `accuracy_level` of 4 changes the
outputs by 5e-3 of the largest one: tolerances for that would hide a wrong graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx
    import onnxruntime

_FOLDER = "session.model_external_initializers_file_folder_path"


def with_exact_products(file: Path, options: onnxruntime.SessionOptions) -> bytes:
    """Return a graph that multiplies its quantized weights with floating-point activations.

    `MatMulNBits` computes with the graph's type, and `MatMulInteger` becomes a `MatMul` with what its integers stand
    for. The weights stay in their file.

    Args:
        file: the graph.
        options: session options, which get the folder of the weights.
    """
    import onnx

    from onnxport.writing.protobuf import outline

    try:
        options.get_session_config_entry(_FOLDER)
    except RuntimeError:  # it isn't set yet; ONNX Runtime warns if it is set twice
        options.add_session_config_entry(_FOLDER, str(file.parent))
    model = onnx.ModelProto.FromString(outline(file))
    nodes = [new for node in model.graph.node for new in _exact(node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return bytes(model.SerializeToString())


def _exact(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes that compute what a node does, without rounding activations."""
    from onnx import TensorProto, helper

    match node.op_type:
        case "MatMulNBits":
            kept = [attribute for attribute in node.attribute if attribute.name != "accuracy_level"]
            del node.attribute[:]
            node.attribute.extend(kept)
            yield node
        case "DynamicQuantizeLinear":
            data, scale, _ = node.output
            yield helper.make_node("Identity", [node.input[0]], [data])
            yield helper.make_node("Constant", [], [scale], value_float=1.0)
        case "MatMulInteger":
            data, weight, _, zero = node.input
            parts = [f"{node.output[0]}_{name}" for name in ("weight", "zero", "centred")]
            yield helper.make_node("Cast", [weight], [parts[0]], to=TensorProto.FLOAT)
            yield helper.make_node("Cast", [zero], [parts[1]], to=TensorProto.FLOAT)
            yield helper.make_node("Sub", parts[:2], [parts[2]])
            yield helper.make_node("MatMul", [data, parts[2]], [node.output[0]])
        case _:
            yield node
