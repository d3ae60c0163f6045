"""Load graphs in a form whose outputs can be compared with the original's.

Quantized graphs compute with floating-point activations: with 8-bit ones, a rounding error of float32 decides ties
otherwise, and an `accuracy_level` of 4 changes the outputs by 5e-3 of the largest one. Tolerances for that would hide a
wrong graph. Random numbers are a constant, as in `tracing.comparable`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from onnxport.description.tolerances import DRAWN

if TYPE_CHECKING:
    import onnx
    import onnxruntime

_FOLDER = "session.model_external_initializers_file_folder_path"


def comparable_form(file: Path, options: onnxruntime.SessionOptions) -> bytes:
    """Return a graph without rounded activations and random numbers.

    `MatMulNBits` computes with the graph's type, `MatMulInteger` becomes a `MatMul` with what its integers stand for,
    and random numbers are `DRAWN`, scaled as the node says. The weights stay in their file.

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
    _replace_nodes(model.graph)
    return bytes(model.SerializeToString())


def _replace_nodes(graph: onnx.GraphProto) -> None:
    """Replace the nodes of a graph and of the bodies of its loops and branches."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _replace_nodes(attribute.g)
    nodes = [new for node in graph.node for new in _exact(node)]
    del graph.node[:]
    graph.node.extend(nodes)


def _exact(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes that compute what a node does, without rounding activations and without random numbers."""
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
        case "RandomNormalLike" | "RandomUniformLike":
            given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
            if node.op_type == "RandomNormalLike":
                value = given.get("mean", 0.0) + given.get("scale", 1.0) * DRAWN
            else:
                low = given.get("low", 0.0)
                value = low + (given.get("high", 1.0) - low) * DRAWN
            parts = [f"{node.output[0]}_{name}" for name in ("shape", "value", "float")]
            yield helper.make_node("Shape", list(node.input), [parts[0]])
            yield helper.make_node("Constant", [], [parts[1]], value_float=value)
            yield helper.make_node("Expand", [parts[1], parts[0]], [parts[2]])
            if "dtype" in given:
                yield helper.make_node("Cast", [parts[2]], list(node.output), to=given["dtype"])
            else:
                yield helper.make_node("CastLike", [parts[2], *node.input], list(node.output))
        case _:
            yield node
