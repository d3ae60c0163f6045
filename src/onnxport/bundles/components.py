"""Describe a finished graph for the manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from onnxport.blueprints.blueprint import Depth, TracedGraph
from onnxport.bundles.inspection import describe_value
from onnxport.bundles.manifest import ComponentDescription

if TYPE_CHECKING:
    import onnx_ir as ir


def describe_graph(
    traced: TracedGraph, depth: Depth, model: ir.Model, context: tuple[str, Mapping[str, int]]
) -> ComponentDescription:
    """Describe one graph.

    Args:
        traced: where it comes from.
        depth: how it got its layers.
        model: the graph at full depth.
        context: why the weights were read eagerly, empty where they weren't; and file name to bytes.
    """
    note, sizes = context
    graph = model.graph
    data = tuple(name for name in sizes if name.startswith(f"{traced.file}_data"))
    tensors = [value.const_value for value in graph.initializers.values() if value.const_value is not None]
    return ComponentDescription(
        name=traced.name,
        file=traced.file,
        external_data=data,
        opset=model.opset_imports[""],
        parameters=sum(tensor.size for tensor in tensors),
        bytes=sum(sizes.get(name, 0) for name in (traced.file, *data)),
        inputs=tuple(describe_value(value) for value in graph.inputs),
        outputs=tuple(describe_value(value) for value in graph.outputs),
        fixed_axes=traced.fixed_axes,
        notes=tuple(_notes(depth, note)),
    )


def _notes(depth: Depth, note: str) -> Iterator[str]:
    for layers in depth.layers:
        traced, stamped = len(layers.traced), len(layers.full)
        yield f"{', '.join(layers.paths)}: {traced} layers traced and proved alike, {stamped} stamped"
    if depth.note:
        yield depth.note
    if note:
        yield f"weights read eagerly: {note}"
