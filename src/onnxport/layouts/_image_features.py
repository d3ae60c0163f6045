"""Merge the features of images in the graph of the token embeddings, as onnxruntime-genai passes them.

In the default layout, that graph takes token ids alone, and the runtime puts the features in place of the embeddings of
placeholder tokens. Here the graph does:

    input_ids → embed_tokens → ScatterND(·, where input_ids is image_token_id, image_features) → inputs_embeds
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnxport.bundles.manifest import ComponentDescription
from onnxport.layouts._graph_files import input_named, replace_graph, replace_output
from onnxport.layouts._wide_embeddings import EMBEDDING, FEATURES

if TYPE_CHECKING:
    import onnx_ir as ir

_TOKENS = "input_ids"


def merge_image_features(
    components: tuple[ComponentDescription, ...], directory: Path, image_token_id: int
) -> tuple[ComponentDescription, ...]:
    """Let the graphs of the token embeddings merge features; return the descriptions of all graphs.

    Args:
        components: the graphs, with their files in `directory`, which are replaced.
        directory: directory of the graphs.
        image_token_id: id of the placeholder token.
    """
    features = {one.dtype: value for one in components for value in one.outputs if value.name == FEATURES}
    changed = []
    for one in components:
        if one.name == EMBEDDING:
            merge_features(directory / one.file, image_token_id)
            one = replace(one, inputs=(*one.inputs, features[one.dtype]))
        changed.append(one)
    return tuple(changed)


def merge_features(file: Path, image_token_id: int) -> None:
    """Add the input `image_features` to a file with the graph of the token embeddings; see `add_features`."""
    import onnx_ir as ir

    model = ir.load(file)
    add_features(model.graph, FEATURES, image_token_id)
    replace_graph(file, model)


def add_features(graph: ir.Graph, name: str, token_id: int) -> None:
    """Add an input of features to the graph of the token embeddings.

    Its last axis has the size of the hidden states; the others are any, of no rank that the graph would declare, since
    genai passes [images, tokens, hidden size] of some models with an image, and [0, hidden size] without one. If there
    are no features, a placeholder token keeps its own embedding.

    Args:
        graph: has the input `input_ids` and the output `inputs_embeds`.
        name: name of the input.
        token_id: id of the token whose embeddings the features replace, in order.
    """
    import onnx_ir as ir

    embeds = graph.outputs[0]
    assert embeds.shape is not None
    features = ir.Value(name=name, type=embeds.type)
    rows_shape, token, zero = (
        ir.node("Constant", [], {"value": ir.tensor(np.array(value, np.int64))})
        for value in ([-1, embeds.shape[-1]], token_id, 0)
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
    features_nodes = [rows_shape, token, zero, rows, typed, count, has_images]
    replace_output(graph, embeds, [*features_nodes, is_token, replaced, found, positions, merged], embeds.shape)
    graph.inputs.append(features)
