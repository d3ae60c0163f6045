"""Compute the keys and values of cross-attention elsewhere than in the first step of the decoder, for other clients.

A decoder of the default layout projects the hidden states whose keys and values aren't cached yet:

    encoder_hidden_states → Slice(cached:) → projection → Concat(past, ·) → present.N.encoder.key

For onnxruntime-genai, the projections move to the encoder, and the decoder takes the whole cache. For transformers.js,
decoders whose cache it takes for that of a decoder alone project all hidden states in each step.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnxport.bundles.manifest import ComponentDescription, TensorDescription
from onnxport.errors import UnsupportedError
from onnxport.layouts._graph_files import leave_out_inputs, rename_values, replace_graph

if TYPE_CHECKING:
    import onnx_ir as ir

HIDDEN_STATES = "encoder_hidden_states"
PRESENT_CROSS = re.compile(r"present\.(\d+)\.encoder\.(key|value)")
"""Outputs of a decoder: the cache of its cross-attention."""
_CROSS = re.compile(r"(past_key_values|present)\.\d+\.encoder\.(key|value)")
_OWN = re.compile(r"(past_key_values|present)\.(\d+)\.decoder\.(key|value)")
_PAST_AND_NEW = 2


def cross_name(layer: int | str, part: str) -> str:
    """Return the name of an output of the encoder: the key or the value of a layer of the decoder."""
    return f"present_{part}_cross_{layer}"


def encode_cross_attention(
    components: tuple[ComponentDescription, ...], directory: Path
) -> tuple[ComponentDescription, ...]:
    """Move the cross-attention of each precision to its encoder, and return the descriptions of all graphs.

    Args:
        components: the graphs, with their files in `directory`; those that aren't encoder-decoders stay as they are.
        directory: directory of the graphs, which are replaced.
    """
    changed = {}
    for decoder in components:
        cross = [value for value in decoder.outputs if PRESENT_CROSS.fullmatch(value.name)]
        encoder = next((one for one in components if one.name == "encoder_model" and one.dtype == decoder.dtype), None)
        if not cross or encoder is None:
            continue
        move_cross_attention(directory / encoder.file, directory / decoder.file)
        made = (replace(one, name=PRESENT_CROSS.sub(_renamed, one.name), axes=_axes(one, encoder)) for one in cross)
        data = dict.fromkeys((*encoder.external_data, *decoder.external_data))
        changed[id(encoder)] = replace(encoder, outputs=(*encoder.outputs, *made), external_data=tuple(data))
        inputs = tuple(value for value in decoder.inputs if value.name != HIDDEN_STATES)
        outputs = tuple(value for value in decoder.outputs if value not in cross)
        changed[id(decoder)] = replace(decoder, inputs=inputs, outputs=outputs, absent_inputs=(HIDDEN_STATES,))
    return tuple(changed.get(id(one), one) for one in components)


def recompute_cross_attention(
    components: tuple[ComponentDescription, ...], directory: Path
) -> tuple[ComponentDescription, ...]:
    """Leave the cross-attention out of the cache of decoders, and return the descriptions of all graphs.

        past_key_values.0.decoder.key, past_key_values.0.encoder.key   →   past_key_values.0.key

    Args:
        components: the graphs, with their files in `directory`, where decoders with such a cache are replaced.
        directory: directory of the graphs.
    """
    return tuple(_recomputing(one, directory / one.file) for one in components)


def _recomputing(component: ComponentDescription, file: Path) -> ComponentDescription:
    import onnx_ir as ir

    cross = [value.name for value in component.inputs if _CROSS.fullmatch(value.name)]
    if not cross:
        return component
    leave_out_inputs(file, cross)
    model = ir.load(file)
    for value in [value for value in model.graph.outputs if _CROSS.fullmatch(str(value.name))]:
        model.graph.outputs.remove(value)
    replace_graph(file, model)
    names = {
        value.name: _OWN.sub(r"\1.\2.\3", value.name)
        for value in (*component.inputs, *component.outputs)
        if not _CROSS.fullmatch(value.name)
    }
    rename_values(file, names)
    inputs, outputs = (
        tuple(replace(one, name=names[one.name]) for one in values if one.name in names)
        for values in (component.inputs, component.outputs)
    )
    return replace(component, inputs=inputs, outputs=outputs, absent_inputs=tuple(cross))


def _renamed(match: re.Match[str]) -> str:
    return cross_name(match[1], match[2])


def _axes(cross: TensorDescription, encoder: ComponentDescription) -> tuple[int | str, ...]:
    """Return the axes of a key or value that is as long as the encoder's hidden states."""
    batch, length = encoder.outputs[0].axes[:2]
    return (batch, cross.axes[1], length, cross.axes[3])


def move_cross_attention(encoder: Path, decoder: Path) -> None:
    """Move the projections from the decoder's graph to the encoder's, which refers to the decoder's weights.

    Args:
        encoder: the graph with the output `last_hidden_state`; it is replaced.
        decoder: the graph with the input `encoder_hidden_states`; it is replaced.

    Raises:
        UnsupportedError: the decoder computes them otherwise.
    """
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    models = ir.load(encoder), ir.load(decoder)
    hidden = next(value for value in models[1].graph.inputs if value.name == HIDDEN_STATES)
    joins = dict(_joins(models[1].graph, decoder.name))
    projected = _copied(models[0].graph, hidden, {name: join.inputs[1] for name, join in joins.items()}, decoder.name)
    models[0].graph.outputs.extend(projected)
    models[0].opset_imports.update({**models[1].opset_imports, **models[0].opset_imports})
    for join in joins.values():
        past, present = join.inputs[0], join.outputs[0]
        assert past is not None
        models[1].graph.outputs.remove(present)
        ir.convenience.replace_all_uses_with(present, past)
    RemoveUnusedNodesPass()(models[1])
    if any(True for _ in hidden.uses()):
        raise UnsupportedError(f"{decoder.name} uses {HIDDEN_STATES} beside its cross-attention: genai can't run it")
    models[1].graph.inputs.remove(hidden)
    replace_graph(encoder, models[0])
    replace_graph(decoder, models[1])


def _joins(graph: ir.Graph, file: str) -> Iterator[tuple[str, ir.Node]]:
    """Yield the encoder's name of each key and value, and the node that appends it to the cached one."""
    for value in graph.outputs:
        match = PRESENT_CROSS.fullmatch(str(value.name))
        if match is None:
            continue
        node = value.producer()
        past = f"past_key_values.{match[1]}.encoder.{match[2]}"
        if (
            node is None
            or node.op_type != "Concat"
            or len(node.inputs) != 2
            or getattr(node.inputs[0], "name", "") != past
        ):
            raise UnsupportedError(f"{file} doesn't append {value.name} to its cache: genai can't run it")
        yield cross_name(match[1], match[2]), node


def _copied(encoder: ir.Graph, hidden: ir.Value, wanted: Mapping[str, ir.Value | None], file: str) -> list[ir.Value]:
    """Copy the nodes that compute values from slices of the hidden states to the encoder; return them by their names.

    Raises:
        UnsupportedError: they depend on an input of the decoder beside the size of its batch.
    """
    import onnx_ir as ir

    states = next(value for value in encoder.outputs if value.name == "last_hidden_state")
    copies: dict[ir.Value, ir.Value] = {}
    taken = {str(value.name) for node in encoder for value in (*node.inputs, *node.outputs) if value is not None}

    def copy_of(value: ir.Value) -> ir.Value:
        if value in copies:
            return copies[value]
        node = value.producer()
        if node is not None and node.op_type == "Slice" and node.inputs[0] is hidden:
            copies[value] = states
        elif node is not None:
            inputs = [states if _is_batch(node) else copy_of(one) if one is not None else None for one in node.inputs]
            made = ir.Node(
                node.domain, node.op_type, inputs, node.attributes.values(), num_outputs=len(node.outputs),
                overload=node.overload, version=node.version, name=f"cross/{node.name}",
            )  # fmt: skip
            encoder.append(made)
            for old, new in zip(node.outputs, made.outputs, strict=True):
                new.name, new.type, new.shape = f"cross/{old.name}", old.type, old.shape
                copies[old] = new
        elif value.is_initializer():
            name = f"cross/{value.name}" if value.name in taken else str(value.name)
            copies[value] = ir.Value(name=name, type=value.type, shape=value.shape, const_value=value.const_value)
            encoder.register_initializer(copies[value])
        else:
            raise UnsupportedError(f"{file} computes its cross-attention from {value.name}: genai can't run it")
        return copies[value]

    outputs = []
    for name, value in wanted.items():
        assert value is not None
        copied = copy_of(value)
        node = ir.node("Identity", [copied])
        encoder.append(node)
        node.outputs[0].name, node.outputs[0].type = name, value.type
        if value.shape is not None and states.shape is not None:
            heads, size = value.shape[1], value.shape[3]
            node.outputs[0].shape = ir.Shape([states.shape[0], heads, states.shape[1], size])
        outputs.append(node.outputs[0])
    return outputs


def _is_batch(node: ir.Node) -> bool:
    """Return whether a node computes the size of the batch, from any input of the decoder."""
    axes = node.attributes.get_int("start", 0), node.attributes.get_int("end", -1)
    return node.op_type == "Shape" and axes == (0, 1) and node.inputs[0] is not None and node.inputs[0].is_graph_input()
