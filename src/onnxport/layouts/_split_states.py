"""Split the convolutional state of linear attention in those of queries, keys and values, as transformers.js does.

OLMo Hybrid has one convolution over the channels of all three, and so a state of all; its predecessor had three:

    past_conv.N.query, past_conv.N.key, past_conv.N.value → Concat → past_conv.N
    present_conv.N → Split → present_conv.N.query, present_conv.N.key, present_conv.N.value
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnxport.bundles.manifest import ComponentDescription, TensorDescription
from onnxport.layouts._graph_files import input_named, ints, output_named, replace_graph, replace_input

if TYPE_CHECKING:
    import onnx_ir as ir

_STATE = re.compile(r"(past|present)_conv\.\d+")


def split_states(
    components: tuple[ComponentDescription, ...], directory: Path, channels: Mapping[str, int]
) -> tuple[ComponentDescription, ...]:
    """Split the states of graphs, and return the descriptions of all graphs.

    Args:
        components: the graphs, with their files in `directory`, where those with such states are replaced.
        directory: directory of the graphs.
        channels: name of a part to its number of channels, in their order.
    """
    return tuple(_split(one, directory / one.file, channels) for one in components)


def _split(component: ComponentDescription, file: Path, channels: Mapping[str, int]) -> ComponentDescription:
    import onnx_ir as ir

    states = {value.name for value in (*component.inputs, *component.outputs) if _STATE.fullmatch(value.name)}
    if not states:
        return component
    model = ir.load(file)
    graph = model.graph
    for name in [str(value.name) for value in graph.inputs if value.name in states]:
        state = input_named(graph, name)
        parts = _parts(state, channels)
        joined = ir.node("Concat", parts, {"axis": 1})
        replace_input(graph, state, [joined])
        index = graph.inputs.index(state)
        graph.inputs[index : index + 1] = parts
    for name in [str(value.name) for value in graph.outputs if value.name in states]:
        state = output_named(graph, name)
        parts = _parts(state, channels)
        sizes = ints(*channels.values())
        node = ir.Node("", "Split", [state, sizes.outputs[0]], [ir.AttrInt64("axis", 1)], outputs=parts)
        graph.extend([sizes, node])
        index = graph.outputs.index(state)
        graph.outputs[index : index + 1] = parts
    replace_graph(file, model)
    inputs, outputs = (
        tuple(part for value in values for part in _described(value, states, channels))
        for values in (component.inputs, component.outputs)
    )
    return replace(component, inputs=inputs, outputs=outputs)


def _parts(state: ir.Value, channels: Mapping[str, int]) -> list[ir.Value]:
    import onnx_ir as ir

    batch, _, length = state.shape or (None, None, None)
    return [
        ir.Value(name=f"{state.name}.{part}", type=state.type, shape=ir.Shape([batch, size, length]))
        for part, size in channels.items()
    ]


def _described(value: TensorDescription, states: set[str], channels: Mapping[str, int]) -> list[TensorDescription]:
    if value.name not in states:
        return [value]
    batch, _, length = value.axes
    return [replace(value, name=f"{value.name}.{part}", axes=(batch, size, length)) for part, size in channels.items()]
