"""Carry what a decoder needs beside embeddings within them, for clients that pass a decoder embeddings alone.

Qwen3-VL's decoder also takes features that its first layers add (DeepStack), and Gemma 3's the types of tokens, since
those of an image attend to each other. A client that puts the rows of `image_features` into those of `inputs_embeds`
passes both on if all rows are wider, whatever it knows about them:

    vision_encoder   image_features [n, H], deepstack_features [L, n, H]   →   image_features [n, H + L · H]
    embed_tokens     inputs_embeds [b, s, H]                               →   inputs_embeds [b, s, H + L · H]
    decoder          inputs_embeds, deepstack_embeds [L, b, s, H]          →   inputs_embeds, which it takes apart

The rows of tokens end with zeros. Types of tokens are one further number of each row: 1 of an image, 0 of a text.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnxport.bundles.manifest import ComponentDescription, TensorDescription
from onnxport.layouts._graph_files import input_named, ints, output_named, replace_graph, replace_input, replace_output

if TYPE_CHECKING:
    import onnx_ir as ir

EMBEDDING, FEATURES, EMBEDS = "embed_tokens", "image_features", "inputs_embeds"
_DEEPSTACK, _DEEPSTACK_FEATURES, _TYPES = "deepstack_embeds", "deepstack_features", "token_type_ids"


def widen_embeddings(components: tuple[ComponentDescription, ...], directory: Path) -> tuple[ComponentDescription, ...]:
    """Widen the embeddings of a vision model that has such a decoder; return the descriptions of all graphs.

    Args:
        components: the graphs, with their files in `directory`, which are replaced.
        directory: directory of the graphs.
    """
    return tuple(_widened(one, components, directory / one.file) for one in components)


def _widened(
    component: ComponentDescription, components: tuple[ComponentDescription, ...], file: Path
) -> ComponentDescription:
    decoder = next(
        one for one in components if one.dtype == component.dtype and EMBEDS in [value.name for value in one.inputs]
    )
    carried = next((value for value in decoder.inputs if value.name in (_DEEPSTACK, _TYPES)), None)
    embeds = next(value for value in decoder.inputs if value.name == EMBEDS)
    width, layers = embeds.axes[-1], carried.axes[0] if carried and carried.name == _DEEPSTACK else 0
    if carried is None or not isinstance(width, int) or not isinstance(layers, int):
        return component
    added = layers * width or 1
    if component.name == decoder.name:
        take_apart(file, layers)
        inputs = tuple(_wider(value, added) for value in component.inputs if value is not carried)
        return replace(component, inputs=inputs)
    if component.name == EMBEDDING:
        pad_embeddings(file, added)
    elif component.name == "vision_encoder":
        carry(file)
    outputs = (value for value in component.outputs if value.name != _DEEPSTACK_FEATURES)
    return replace(component, outputs=tuple(_wider(value, added) for value in outputs))


def _wider(value: TensorDescription, added: int) -> TensorDescription:
    size = value.axes[-1] if value.axes else None
    if value.name not in (FEATURES, EMBEDS) or not isinstance(size, int):
        return value
    return replace(value, axes=(*value.axes[:-1], size + added))


def pad_embeddings(file: Path, added: int) -> None:
    """Append zeros to the rows of `inputs_embeds`.

    Args:
        file: the graph of the token embeddings; it is replaced.
        added: their number.
    """
    import onnx_ir as ir

    model = ir.load(file)
    _append(model.graph, output_named(model.graph, EMBEDS), 0, added)
    replace_graph(file, model)


def carry(file: Path) -> None:
    """Append to the rows of `image_features` those of `deepstack_features`, or the type 1 if there are none.

    Args:
        file: the graph of the vision encoder; it is replaced.
    """
    import onnx_ir as ir

    model = ir.load(file)
    graph = model.graph
    features = output_named(graph, FEATURES)
    stacked = next((value for value in graph.outputs if value.name == _DEEPSTACK_FEATURES), None)
    if stacked is None:
        _append(graph, features, 1, 1)
    else:
        rows = ir.node("Transpose", [stacked], {"perm": [1, 0, 2]})
        shape = ints(0, -1)
        flat = ir.node("Reshape", [rows.outputs[0], shape.outputs[0]])
        joined = ir.node("Concat", [features, flat.outputs[0]], {"axis": -1})
        wide = _wider_shape(features, _size(stacked, 0) * _size(stacked, 2))
        replace_output(graph, features, [rows, shape, flat, joined], wide)
        graph.outputs.remove(stacked)
    replace_graph(file, model)


def take_apart(file: Path, layers: int) -> None:
    """Take `deepstack_embeds`, or `token_type_ids`, from the ends of the rows of `inputs_embeds`.

    Args:
        file: the graph of the decoder; it is replaced.
        layers: the number of layers that add features; 0 for types of tokens.
    """
    import onnx_ir as ir

    model = ir.load(file)
    graph = model.graph
    embeds, carried = input_named(graph, EMBEDS), input_named(graph, _DEEPSTACK if layers else _TYPES)
    width = _size(embeds, -1)
    added = layers * width or 1
    sizes = ints(width, added)
    split = ir.node("Split", [embeds, sizes.outputs[0]], {"axis": -1}, num_outputs=2)
    if layers:
        shape = ints(0, 0, layers, width)
        rows = ir.node("Reshape", [split.outputs[1], shape.outputs[0]])
        nodes = [shape, rows, ir.node("Transpose", [rows.outputs[0]], {"perm": [2, 0, 1, 3]})]
    else:
        axis = ints(-1)
        types = ir.node("Squeeze", [split.outputs[1], axis.outputs[0]])
        nodes = [axis, types, ir.node("Cast", [types.outputs[0]], {"to": ir.DataType.INT64})]
    replace_input(graph, carried, nodes)
    replace_input(graph, embeds, [sizes, split])
    graph.inputs.remove(carried)
    embeds.shape = _wider_shape(embeds, added)
    replace_graph(file, model)


def _append(graph: ir.Graph, value: ir.Value, number: int, count: int) -> None:
    """Append a number to the rows of an output, `count` times."""
    import onnx_ir as ir

    assert value.shape is not None and value.dtype is not None
    pads = ints(*[0] * (2 * len(value.shape) - 1), count)
    filled = ir.node("Constant", [], {"value": ir.tensor(np.array(number, value.dtype.numpy()))})
    padded = ir.node("Pad", [value, pads.outputs[0], filled.outputs[0]])
    replace_output(graph, value, [pads, filled, padded], _wider_shape(value, count))


def _size(value: ir.Value, axis: int) -> int:
    size = None if value.shape is None else value.shape[axis]
    assert isinstance(size, int), f"{value.name}: axis {axis} has no size"
    return size


def _wider_shape(value: ir.Value, added: int) -> ir.Shape:
    import onnx_ir as ir

    assert value.shape is not None
    return ir.Shape([*value.shape.dims[:-1], _size(value, -1) + added])
