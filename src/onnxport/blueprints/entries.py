"""Serialize blueprints as cache entries, and parse and validate them."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from onnxport.binding.bind import Binding
from onnxport.blueprints.blueprint import Blueprint, Depth, Trace, TracedGraph
from onnxport.description.description import Description, GraphDescription
from onnxport.description.encoder_outputs import Modality
from onnxport.passes.hiding import hidden_parameters
from onnxport.stamping import Layers
from onnxport.weights.parameters import ParameterTensor

if TYPE_CHECKING:
    import onnx_ir as ir

_PARAMETERS = "onnxport.parameters"
"""Metadata key of a graph in an entry: the names of its parameters, which are serialized as graph inputs."""


def graphs_to_bytes(graphs: tuple[TracedGraph, ...]) -> bytes:
    """Serialize traced graphs with their descriptions."""
    values = [
        {
            "description": traced.description.to_json(),
            "graph": base64.b64encode(_graph_to_bytes(traced.graph)).decode(),
        }
        for traced in graphs
    ]
    return json.dumps(values).encode()


def graphs_from_bytes(content: bytes) -> tuple[TracedGraph, ...]:
    """Parse the result of `graphs_to_bytes`; the descriptions have no code.

    Raises:
        ValueError: the content isn't such a result.
    """
    from google.protobuf.message import DecodeError

    try:
        return tuple(
            TracedGraph(
                GraphDescription.from_json(value["description"]),
                _graph_from_bytes(base64.b64decode(value["graph"], validate=True)),
            )
            for value in json.loads(content)
        )
    except (DecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"this isn't an entry with graphs: {error}") from error


def export_to_bytes(blueprint: Blueprint, traces: str) -> bytes:
    """Serialize everything of a blueprint except its graphs.

    Args:
        blueprint: the blueprint.
        traces: key of the entry with the graphs.

    Raises:
        ValueError: the binding has weights in memory, which aren't cached.
    """
    description = {name: getattr(blueprint.description, name) for name in _DESCRIPTION_FIELDS}
    return json.dumps(
        {
            "traces": traces,
            "description": description,
            "depths": [asdict(depth) for depth in blueprint.trace.depths],
            "modalities": [asdict(modality) for modality in blueprint.description.modalities],
            "left_out": dict(blueprint.description.left_out),
            "defaults": dict(blueprint.description.defaults),
            "reread_length": blueprint.description.reread_length,
            "adds_tokens": blueprint.description.adds_tokens,
            "binding": blueprint.binding.to_json(),
        }
    ).encode()


_DESCRIPTION_FIELDS = ("model_type", "architecture", "task", "dtype", "positions", "end_token")
"""Fields of a description in the entry of an export; the descriptions of its graphs are in the entry of the graphs."""


def traces_of(content: bytes) -> str:
    """Return the key of the graphs that an entry refers to.

    Raises:
        ValueError: it isn't an entry of an export.
    """
    return str(_load(content)["traces"])


def export_from_bytes(content: bytes, graphs: tuple[TracedGraph, ...], binding: Binding) -> Blueprint:
    """Parse the result of `export_to_bytes`.

    Args:
        content: the entry.
        graphs: the graphs of the entry that it refers to.
        binding: the entry's binding, rebound to the checkpoint.

    Raises:
        ValueError: the content isn't such a result.
    """
    value = _load(content)
    try:
        depths = tuple(
            Depth(
                tuple(Layers(tuple(run["paths"]), tuple(run["traced"]), tuple(run["full"])) for run in depth["layers"]),
                depth["note"],
                depth["as_drafted"],
            )
            for depth in value["depths"]
        )
        fields = {name: str(value["description"][name]) for name in _DESCRIPTION_FIELDS}
        modalities = tuple(Modality(**modality) for modality in value["modalities"])
        defaults = {str(name): str(default) for name, default in value["defaults"].items()}
        reread_length, adds_tokens = int(value["reread_length"]), bool(value["adds_tokens"])
        left_out = {str(name): str(reason) for name, reason in value["left_out"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"this isn't an entry of an export: {error}") from error
    described = tuple(traced.description for traced in graphs)
    description = Description(
        model_type=fields["model_type"],
        architecture=fields["architecture"],
        task=fields["task"],
        dtype=fields["dtype"],
        graphs=described,
        modalities=modalities,
        left_out=left_out,
        positions=fields["positions"],
        defaults=defaults,
        reread_length=reread_length,
        adds_tokens=adds_tokens,
        end_token=fields["end_token"],
    )
    return Blueprint(description, Trace(graphs, depths, cached=True), binding)


def binding_of(content: bytes) -> Binding:
    """Return the binding in an entry.

    Raises:
        ValueError: it isn't an entry of an export.
    """
    return Binding.from_json(_load(content)["binding"])


def _load(content: bytes) -> dict[str, Any]:
    value = json.loads(content)
    if not isinstance(value, dict) or not {"traces", "binding", "depths"} <= value.keys():
        raise ValueError("this isn't an entry of an export")
    return value


def _graph_to_bytes(model: ir.Model) -> bytes:
    import onnx_ir as ir

    names = [name for name, v in model.graph.initializers.items() if isinstance(v.const_value, ParameterTensor)]
    model.metadata_props[_PARAMETERS] = json.dumps(names)
    try:
        with hidden_parameters(model.graph):
            content: bytes = ir.to_proto(model).SerializeToString()
        return content
    finally:
        del model.metadata_props[_PARAMETERS]


def _graph_from_bytes(content: bytes) -> ir.Model:
    import onnx
    import onnx_ir as ir

    model: ir.Model = ir.from_proto(onnx.ModelProto.FromString(content))
    names = set(json.loads(model.metadata_props.pop(_PARAMETERS)))
    for value in [value for value in model.graph.inputs if value.name in names]:
        assert value.shape is not None and value.dtype is not None
        model.graph.inputs.remove(value)
        value.const_value = ParameterTensor(str(value.name), value.dtype, value.shape.numpy())
        model.graph.register_initializer(value)
    return model
