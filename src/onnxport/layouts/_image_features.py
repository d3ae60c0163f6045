"""Merge the features of images in the graph of the token embeddings, as onnxruntime-genai passes them.

In the default layout, that graph takes token ids alone, and the runtime puts the features in place of the embeddings of
placeholder tokens. Here the graph does:

    input_ids → embed_tokens → ScatterND(·, where input_ids is image_token_id, image_features) → inputs_embeds

A decoder whose image tokens attend to each other takes the token ids beside them, and computes `token_type_ids`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnxport.bundles.manifest import ComponentDescription, TensorDescription
from onnxport.layouts._graph_files import input_named, replace_graph, replace_input

if TYPE_CHECKING:
    pass

FEATURES = "image_features"
"""Output of a vision encoder, and input of the graph of the token embeddings."""
_TOKENS, _TYPES = "input_ids", "token_type_ids"


def merge_image_features(
    components: tuple[ComponentDescription, ...], directory: Path, image_token_id: int
) -> tuple[ComponentDescription, ...]:
    """Let the graphs of a vision model merge features and tell image tokens; return the descriptions of all graphs.

    Args:
        components: the graphs, with their files in `directory`, which are replaced.
        directory: directory of the graphs.
        image_token_id: id of the placeholder token.
    """
    return tuple(_with_features(one, components, directory / one.file, image_token_id) for one in components)


def _with_features(
    component: ComponentDescription, components: tuple[ComponentDescription, ...], file: Path, image_token_id: int
) -> ComponentDescription:
    if component.name == "embed_tokens":
        vision = next(one for one in components if one.name == "vision_encoder" and one.dtype == component.dtype)
        made = next(value for value in vision.outputs if value.name == FEATURES)
        merge_features(file, image_token_id)
        return replace(component, inputs=(*component.inputs, made))
    if _TYPES not in [value.name for value in component.inputs]:
        return component
    tell_image_tokens(file, image_token_id)
    inputs = (_as_tokens(value) if value.name == _TYPES else value for value in component.inputs)
    return replace(component, inputs=tuple(inputs))


def _as_tokens(types: TensorDescription) -> TensorDescription:
    return replace(types, name=_TOKENS)


def merge_features(file: Path, image_token_id: int) -> None:
    """Add the input `image_features` to the graph of the token embeddings.

    Its last axis has the size of the hidden states; the others are any, of no rank that the graph would declare, since
    genai passes [images, tokens, hidden size] of some models with an image, and [0, hidden size] without one. If there
    are no features, an image token keeps its own embedding.

    Args:
        file: the graph with the input `input_ids` and the output `inputs_embeds`; it is replaced.
        image_token_id: id of the token whose embeddings the features replace, in order.
    """
    import onnx_ir as ir

    model = ir.load(file)
    graph, embeds = model.graph, model.graph.outputs[0]
    assert embeds.shape is not None
    features = ir.Value(name=FEATURES, type=embeds.type)
    rows_shape, token, zero = (
        ir.node("Constant", [], {"value": ir.tensor(np.array(value, np.int64))})
        for value in ([-1, embeds.shape[-1]], image_token_id, 0)
    )
    rows = ir.node("Reshape", [features, rows_shape.outputs[0]])
    typed = ir.node("CastLike", [rows.outputs[0], embeds])
    count = ir.node("Shape", [rows.outputs[0]], {"start": 0, "end": 1})
    has_images = ir.node("Greater", [count.outputs[0], zero.outputs[0]])
    is_token = ir.node("Equal", [input_named(graph, _TOKENS), token.outputs[0]])
    replaced = ir.node("And", [is_token.outputs[0], has_images.outputs[0]])
    found = ir.node("NonZero", [replaced.outputs[0]])
    positions = ir.node("Transpose", [found.outputs[0]], {"perm": [1, 0]})
    merged = ir.node("ScatterND", [embeds, positions.outputs[0], typed.outputs[0]])
    output = merged.outputs[0]
    output.name, output.type, output.shape = embeds.name, embeds.type, embeds.shape
    embeds.name = f"{embeds.name}_of_tokens"
    graph.extend(
        [rows_shape, token, zero, rows, typed, count, has_images, is_token, replaced, found, positions, merged]
    )
    graph.outputs[0] = output
    graph.inputs.append(features)
    replace_graph(file, model)


def tell_image_tokens(file: Path, image_token_id: int) -> None:
    """Compute the types of tokens instead of taking them: 1 for those of an image.

        token_type_ids [batch_size, sequence]   →   Cast(Equal(input_ids, image_token_id))

    Args:
        file: the graph with the input `token_type_ids`, in whose place it takes `input_ids`; it is replaced.
        image_token_id: id of the placeholder token.
    """
    import onnx_ir as ir

    model = ir.load(file)
    types = input_named(model.graph, _TYPES)
    tokens = ir.Value(name=_TOKENS, type=types.type, shape=types.shape)
    token = ir.node("Constant", [], {"value": ir.tensor(np.array(image_token_id, np.int64))})
    is_token = ir.node("Equal", [tokens, token.outputs[0]])
    cast = ir.node("Cast", [is_token.outputs[0]], {"to": ir.DataType.INT64})
    replace_input(model.graph, types, [token, is_token, cast])
    model.graph.inputs[model.graph.inputs.index(types)] = tokens
    replace_graph(file, model)
